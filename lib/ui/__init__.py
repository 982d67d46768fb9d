"""Everything that knows Streamlit, and the figures that it shows."""
