"""Receptive: page config and navigation, nothing else."""

import streamlit as st

from lib.ui import guard
from lib.ui.components import LOGO, navigation

page = navigation()
st.set_page_config(page_title=f"{page.title} · Receptive", page_icon=LOGO, layout="wide")
st.logo(LOGO, size="large")
guard.run(page.run)
