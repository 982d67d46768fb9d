"""Receptive: settings of the process and the page, and navigation."""

import streamlit as st

from lib.ui import guard
from lib.ui.page import LOGO, navigation
from lib.ui.process import prepare_process

prepare_process()
page = navigation()
st.set_page_config(page_title=f"{page.title} · Receptive", page_icon=LOGO, layout="wide")
st.logo(LOGO, size="large")
guard.run(page.run)
