"""MNIST, synthetic handwriting, outliers and augmentation."""
