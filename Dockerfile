# The gateway's image: `docker build -t warmstart .` (README.md has the commands to run it).
#
# Two stages. The first builds the wheel and fills a virtual environment from the lock files, by hash and from wheels
# only. The second is the base image plus that environment, without tools to build or download. Nothing in the image is
# written at run time: it works with a read-only root file system and any user, given a writable cache.
#
# For another base, such as a mirror's copy: --build-arg PYTHON_IMAGE=… (Python 3.11 or later, with glibc).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# What rarely changes comes first, so that a code change does not reinstall the dependencies.
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r requirements-build.txt
RUN python -m venv --without-pip /opt/warmstart \
 && python -m pip --python /opt/warmstart/bin/python install --require-hashes --only-binary :all: -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY s3api s3api
COPY gcsapi gcsapi
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && python -m pip --python /opt/warmstart/bin/python install --no-deps --no-index /wheel/*.whl
# Compile here, and never compare with the sources' times: with a builder that resets all times, every start would
# compile everything again, and a read-only file system would not keep the result.
RUN /opt/warmstart/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/warmstart/lib

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="warmstart" \
      org.opencontainers.image.description="A node-local caching gateway for model weights that speaks the S3 and GCS APIs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"

# The home directory does not exist. It is named so that a mount at /home/warmstart/.aws is found; nothing is written.
RUN groupadd --gid 10001 warmstart \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /home/warmstart --shell /usr/sbin/nologin warmstart \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/cache/warmstart
# The base image has Python's standard library without compiled files, and nothing can write them later. Otherwise every
# start and every health check would compile its imports again.
RUN python -m compileall -q -f --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|site-packages)/' "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/warmstart /opt/warmstart

# XDG_CACHE_HOME makes /var/cache/warmstart the default cache, which a configuration file may still change.
ENV PATH=/opt/warmstart/bin:$PATH XDG_CACHE_HOME=/var/cache PYTHONDONTWRITEBYTECODE=1
# Numeric, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /
VOLUME /var/cache/warmstart
EXPOSE 9000 9001
STOPSIGNAL SIGTERM
# It asks the first listener of the settings in the environment (WARMSTART_CONFIG, WARMSTART_LISTEN), else port 9000.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["warmstart", "health"]
ENTRYPOINT ["warmstart"]
CMD ["serve"]
