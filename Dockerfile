# The web page and the HTTP server of exp_jax, with head and landmark estimator set up.
#
#   docker build -t exp_jax .                                             # on a CPU
#   docker build -t exp_jax:cuda --build-arg EXTRAS=ui,hub,cuda .         # on NVIDIA GPUs; CUDA's libraries come with JAX
#   docker run -p 127.0.0.1:8771:8771 exp_jax                             # prints the token that the page asks for
#   docker run --gpus all -p 127.0.0.1:8771:8771 exp_jax:cuda
#   docker run -v "$PWD:/work" -w /work exp_jax animate -s me.jpg -d clip.mp4 -o out/a.mp4
FROM python:3.12-slim-bookworm

ARG EXTRAS=ui,hub

# what MediaPipe's wheel asks of the system; Debian keeps one version of each in a release
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libegl1 libgl1 libgles2 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src \
 && useradd --create-home --uid 1000 exp_jax

USER 1000
ENV EXP_JAX_HOME=/home/exp_jax/home
RUN exp-jax setup

WORKDIR /home/exp_jax
EXPOSE 8771
ENTRYPOINT ["exp-jax"]
CMD ["app", "--host", "0.0.0.0"]
