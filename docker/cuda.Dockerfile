# mcap on an NVIDIA card. NOT RUN by the project: no such card was at hand.
#
#   docker build -f docker/cuda.Dockerfile -t mcap:cuda .
#   docker run --rm --gpus all -v "$PWD:/work" mcap:cuda --help
#
# PyTorch's wheels on PyPI bring CUDA along, so the base image needs no more than the driver's
# libraries, which the NVIDIA Container Toolkit mounts.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir "hatchling>=1.27" && python -m hatchling build -t wheel -d /dist

FROM python:3.12-slim
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /dist/mcap-*.whl)[dlib,c2pa]" \
    && useradd --create-home --uid 1000 mcap
USER mcap
WORKDIR /work
VOLUME ["/home/mcap/.cache", "/home/mcap/.config"]
ENTRYPOINT ["mcap"]
CMD ["--help"]
