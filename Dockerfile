# maptile-loc on the CPU, with the pinned dependencies.
#   docker build -t maptile .
#   docker run --rm -v "$PWD:/data" maptile localize /data/city /data/drive --out /data/out
FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install -y --no-install-recommends libusb-1.0-0 libx11-6 libgl1 libegl1 \
 && rm -rf /var/lib/apt/lists/*
# Without this line pip installs torch with CUDA, which is ten times as large.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY data_prep data_prep
COPY maptile_loc maptile_loc
RUN pip install --no-cache-dir -c constraints.txt ".[velodyne,e57,locate,cluster]"
WORKDIR /data
ENTRYPOINT ["maptile"]
