# One node of lastgood: small, non-root, pinned. `docker build -t lastgood .`
# Without a registry: --build-arg BASE=<an image with python3 ≥ 3.11 and venv>, and wheels in deploy/wheels (make wheels).
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY deploy deploy
COPY sdk sdk
COPY wal wal
COPY node node
COPY cluster cluster
COPY chaos chaos
RUN python3 -m venv /opt/lastgood \
 && if [ -d deploy/wheels ]; then from="--no-index --find-links deploy/wheels"; fi \
 && /opt/lastgood/bin/pip install --no-cache-dir --disable-pip-version-check $from -c constraints.txt ./sdk . \
 && /opt/lastgood/bin/pip uninstall --yes pip setuptools \
 && find /opt/lastgood -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
COPY --from=build /opt/lastgood /opt/lastgood
RUN mkdir -p /data && chown 10001:10001 /data
ENV PATH=/opt/lastgood/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /data
EXPOSE 7801 7811 7821
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=2s --start-period=10s --retries=5 \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7801/readyz', timeout=1.5)"]
ENTRYPOINT ["lastgood", "node"]
CMD ["--config", "/etc/lastgood/node.toml"]
