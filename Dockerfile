# The service of an index: docs/service.md.
#
#   docker build -t sole2vec .                                 for CPUs
#   docker build -t sole2vec:gpu --build-arg FORM=gpu .        for an NVIDIA GPU
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/shoes:/index:ro" -v "$PHOTOS:$PHOTOS:ro" sole2vec
#
# Items lie where they were indexed, so photos are mounted at the path that they have outside.
ARG FORM=cpu

FROM python:3.12-slim AS cpu-base

FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 AS gpu-base
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

FROM ${FORM}-base AS build
ARG FORM
RUN python3 -m venv /opt/sole2vec && /opt/sole2vec/bin/pip install --no-cache-dir "uv>=0.8,<1"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY infogan infogan
COPY training training
COPY retrieval retrieval
COPY checkpoints/released checkpoints/released
# The two builds of ONNX Runtime install the same module: one takes the other's place.
RUN /opt/sole2vec/bin/uv pip install --no-cache --python /opt/sole2vec/bin/python -c requirements/cpu.txt ".[cpu,serve]" \
 && if [ "$FORM" = gpu ]; then \
      /opt/sole2vec/bin/uv pip uninstall --python /opt/sole2vec/bin/python onnxruntime \
   && /opt/sole2vec/bin/uv pip install --no-cache --python /opt/sole2vec/bin/python "onnxruntime-gpu>=1.20,<2"; \
    fi

FROM ${FORM}-base
COPY --from=build /opt/sole2vec /opt/sole2vec
ENV PATH=/opt/sole2vec/bin:$PATH PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
# Nothing is written: run it with --read-only, if you like.
USER 10001:10001
WORKDIR /
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "retrieval"]
CMD ["serve", "/index", "--host", "0.0.0.0"]
