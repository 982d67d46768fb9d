"""From a drawing or a photo to a prediction."""
