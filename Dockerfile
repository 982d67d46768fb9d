# The app with the CPU build of PyTorch. Runs and digit sets are kept in two volumes.
#
#   docker build -t receptive --build-arg TORCH_INDEX_URL=ADDRESS .
#
# ADDRESS is the index of PyTorch's CPU build, which the selector on pytorch.org shows.
#
#   docker run --rm -p 127.0.0.1:8501:8501 \
#     -v receptive-runs:/app/checkpoints/saved -v receptive-digits:/app/data/own receptive

FROM python:3.13-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /app

# torch and torchvision first, from PyTorch's own index: the other packages then find their versions installed.
ARG TORCH_INDEX_URL
COPY requirements.txt ./
RUN pip install --index-url "${TORCH_INDEX_URL:?}" $(grep -E '^torch(vision)?==' requirements.txt) \
    && pip install -r requirements.txt

# .dockerignore lists what an image needs.
COPY . .

# The app unpacks MNIST, writes the charts' script to static/ and keeps compiled kernels: these folders are the user's.
RUN useradd --create-home receptive \
    && mkdir -p checkpoints/saved data/own \
    && chown -R receptive: checkpoints data static
USER receptive
ENV NUMBA_CACHE_DIR=/home/receptive/.cache/numba

# Compiles the kernels for this processor. On another one, the first start compiles them again, in half a minute.
RUN python -c "from lib.data import dataset; from lib.training import time_estimate; dataset.load(); time_estimate.measure()"

VOLUME ["/app/checkpoints/saved", "/app/data/own"]
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]

# Inside the container all addresses are meant; `-p 127.0.0.1:8501:8501` decides who reaches it.
ENTRYPOINT ["streamlit", "run", "app.py", "--server.port", "8501", "--server.address", "0.0.0.0", "--server.headless", "true"]
# To serve a class, replace these: --server.allowedHosts 192.168.1.20 --browser.serverAddress 192.168.1.20
CMD ["--browser.serverAddress", "localhost"]
