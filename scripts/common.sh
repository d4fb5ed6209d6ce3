# For the scripts beside this file: steps with elapsed seconds, and one way to end. Sourced, never run.

started=$SECONDS

step() { printf '[%4d s] %s\n' "$((SECONDS - started))" "$*"; }

fail() {
  printf '[%4d s] %s: %s\n' "$((SECONDS - started))" "${0##*/}" "$1" >&2
  shift
  for line in "$@"; do printf '         %s\n' "$line" >&2; done
  exit 1
}

cores() { nproc 2>/dev/null || echo 2; }

# Where nvcc is, if anywhere; the same places that cmake/cohort_cuda.cmake looks at.
find_nvcc() {
  local folder
  for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
    if [[ -n $folder && -x $folder/bin/nvcc ]]; then
      echo "$folder/bin/nvcc"
      return 0
    fi
  done
  command -v nvcc
}

# A driver that answers and has a device: nvcc alone does not make a GPU.
have_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

# Runs a command with its output in a file; shows the end of it only when the command fails.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  if ! "$@" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    return 1
  fi
}
