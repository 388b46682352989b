# syntax=docker/dockerfile:1
# InnerLoop, for CPU by default:   docker build -t innerloop .
# for CUDA:                        docker build -t innerloop --build-arg TORCH=cu130 .
# Every RUN line is a command the Makefile uses too (tests/architecture/test_docker.py), so `make` checks it without an engine.
ARG PYTHON_IMAGE=python:3.13-slim-trixie
# The same Python with a C compiler, for models/native and app/native.
ARG BUILD_IMAGE=python:3.13-trixie

FROM ${BUILD_IMAGE} AS build
# The index of torch wheels: cpu, or a CUDA build of pytorch.org such as cu130.
ARG TORCH=cpu
ARG PIP_FLAGS="--no-cache-dir --extra-index-url https://download.pytorch.org/whl/${TORCH}"
WORKDIR /opt/innerloop
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY app app
COPY models models
COPY migrations migrations
RUN python3 -m venv .venv
# hadolint ignore=DL3059
RUN .venv/bin/pip install $PIP_FLAGS -c constraints.txt .

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/innerloop/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INNERLOOP_HOST=0.0.0.0 \
    INNERLOOP_HOME_DIR=/var/lib/innerloop \
    INNERLOOP_LOG_FORMAT=json
COPY --from=build /opt/innerloop/.venv /opt/innerloop/.venv
# A numeric user needs no entry in /etc/passwd; the folder is the volume's first content, so its owner is kept.
COPY --chown=10001:10001 docker/home /var/lib/innerloop
WORKDIR /var/lib/innerloop
USER 10001:10001
VOLUME /var/lib/innerloop
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["innerloop"]
CMD ["serve"]
