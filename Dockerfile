FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements.txt ./
RUN python -m venv /opt/triggerscope && /opt/triggerscope/bin/pip install --no-cache-dir -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training
RUN /opt/triggerscope/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home triggerscope \
    && install -d -o triggerscope -g triggerscope /data
COPY --from=build /opt/triggerscope /opt/triggerscope
COPY models /models
ENV PATH=/opt/triggerscope/bin:$PATH \
    TRIGGERSCOPE_DATA_DIR=/data \
    TRIGGERSCOPE_MODELS_DIR=/models
USER triggerscope
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
ENTRYPOINT ["triggerscope"]
CMD ["serve", "--host", "0.0.0.0"]
