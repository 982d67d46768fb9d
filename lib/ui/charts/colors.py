"""Colors of the light theme, as in `.streamlit/config.toml`: `live_figure.js` replaces each by that of the page."""

PALETTE = ("#3B5BDB", "#D9480F", "#087F5B", "#862E9C", "#C2255C", "#0B7285", "#5C940D", "#868E96")
# The color of an empty cell.
SURFACE = "#F3F5FB"
