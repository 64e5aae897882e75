# syntax=docker/dockerfile:1
# One image for every worker and job: the package, and a Feast repo at /repo.
#   docker build -t streamsvc .                               the flights example
#   docker build -t streamsvc --build-arg REPO=my_repo .      yours, a directory beside this file
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN python -m pip install "uv>=0.5"
RUN uv venv /opt/streamsvc
ENV VIRTUAL_ENV=/opt/streamsvc
WORKDIR /source
# Packages change less often than sources: this layer is kept between builds.
COPY requirements.lock pyproject.toml ./
RUN uv pip sync --require-hashes requirements.lock
COPY README.md LICENSE ./
COPY feature_repo ./feature_repo
COPY payments_repo ./payments_repo
COPY streamsvc ./streamsvc
RUN uv pip install --no-deps .
# The lock covers tests and the local stack too. `train` keeps what `streamsvc train` needs.
COPY deploy/unneeded_packages.py ./
RUN /opt/streamsvc/bin/python unneeded_packages.py train | xargs uv pip uninstall

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp streamsvc
COPY --from=build /opt/streamsvc /opt/streamsvc
ENV PATH=/opt/streamsvc/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/streamsvc \
    STREAMSVC_LOG_FORMAT=json \
    STREAMSVC_METRICS_PORT=9100
ARG REPO=feature_repo
COPY --chown=streamsvc:streamsvc ${REPO} /repo
# Volumes mounted here start as copies of these directories, owned by the worker's user.
RUN install -d -o streamsvc -g streamsvc /var/cache/streamsvc \
    /repo/data /repo/.streamsvc /repo/.streamsvc/models /repo/.streamsvc/models-nvidia
USER streamsvc
WORKDIR /repo
# Kernels are compiled here rather than at the first event; another kind of CPU compiles them again.
RUN python -c "from streamsvc.agents.warm import warm; warm()"
EXPOSE 9100
STOPSIGNAL SIGTERM
# A worker that can no longer do its work ends, so answering is being healthy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['STREAMSVC_METRICS_PORT'] + '/metrics', timeout=2)"]
ENTRYPOINT ["streamsvc"]
CMD ["--help"]
