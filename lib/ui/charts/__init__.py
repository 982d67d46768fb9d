"""Plotly figures as JSON, in the colors of the light theme; `live_figure.js` replaces them by those of the page.

Written as dicts: Plotly's own classes would take longer to import and to fill than all the rest of a page.
"""
