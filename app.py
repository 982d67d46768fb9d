"""Receptive: the server, and what runs for each session: settings of the page, and navigation.

`streamlit run app.py` imports this file once and serves its `app`. For each session, and after each change of a
control, Streamlit runs the same file as the main program.
"""

import streamlit as st
from starlette.middleware import Middleware

from lib.ui.process import PageRequests, prepare_process, serving

if __name__ == "__main__":
    from lib.ui import guard
    from lib.ui.page import LOGO, navigation
    from lib.ui.warm_up import page_running

    prepare_process()
    page = navigation()
    st.set_page_config(page_title=f"{page.title} · Receptive", page_icon=LOGO, layout="wide")
    st.logo(LOGO, size="large")
    with page_running():
        guard.run(page.run)
else:
    app = st.App(__file__, lifespan=serving, middleware=[Middleware(PageRequests)])
