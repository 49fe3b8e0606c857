# mcap on the CPU, with the demo backbone: nothing is fetched when it runs.
#
#   docker build -f docker/cpu.Dockerfile -t mcap .
#   docker run --rm -v "$PWD:/work" mcap mask selfies --out masks
#
# Written for BuildKit; .dockerignore keeps the context small.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir "hatchling>=1.27" && python -m hatchling build -t wheel -d /dist

FROM python:3.12-slim
# PyTorch without CUDA, and the versions that the project is tested with.
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
      -c /tmp/constraints.txt "$(ls /dist/mcap-*.whl)[dlib,c2pa]" \
    && useradd --create-home --uid 1000 mcap
USER mcap
WORKDIR /work
# Weights that are fetched go to a volume; the watermark's and certificate's folder, too.
VOLUME ["/home/mcap/.cache", "/home/mcap/.config"]
ENTRYPOINT ["mcap"]
CMD ["--help"]
