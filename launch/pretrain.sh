#!/usr/bin/env bash
# Train on one node or many: bash launch/pretrain.sh --config FILE [--nproc N] [--hostfile F] [--launcher L] [any option]
#   --nproc N     processes on this machine (default: its GPUs, or 1 without)
#   --hostfile F  lines "HOST slots=N": train on all of them through ssh (pdsh); --launcher openmpi|slurm for others
# Everything else goes to the run's configuration; see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $1" >&2; exit 2; }

nproc="" hostfile="" launcher=() options=()
while [ $# -gt 0 ]; do
  case $1 in
    --nproc|--hostfile|--launcher)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in
        --nproc) nproc=$2 ;;
        --hostfile) hostfile=$2 ;;
        --launcher) launcher=(--launcher "$2") ;;
      esac
      shift 2 ;;
    --nproc=*|--hostfile=*|--launcher=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    *) options+=("$1"); shift ;;
  esac
done

bash "$root/launch/setup.sh"
venv=$(cd "${MAHA_VENV:-$root/.venv}" && pwd)
export PATH="$venv/bin:$PATH" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

gpus=$( (nvidia-smi -L 2>/dev/null || true) | wc -l)
if [ "$gpus" -eq 0 ]; then
  export DS_ACCELERATOR=cpu
  # the launcher refuses this variable without a GPU
  unset CUDA_VISIBLE_DEVICES
fi
[ -n "$nproc" ] || nproc=$((gpus > 0 ? gpus : 1))
[[ $nproc =~ ^[1-9][0-9]*$ ]] || fail "--nproc is '$nproc'; it must be a positive number"
if [ -n "$hostfile" ]; then
  [ -s "$hostfile" ] || fail "--hostfile $hostfile does not exist or is empty; write one line 'HOST slots=N' per node"
  slots=$(sed -nE 's/^[^#]*slots=([0-9]+).*/\1/p' "$hostfile")
  [ -n "$slots" ] || fail "--hostfile $hostfile has no 'slots='; write one line 'HOST slots=N' per node"
  hosts=$(sed -nE 's/^([^#[:space:]]+).*slots=.*/\1/p' "$hostfile" | paste -sd,)
  world=$(($(paste -sd+ <<<"$slots")))
  nproc=$(sort -n <<<"$slots" | tail -n 1)
  where=(--hostfile "$hostfile" "${launcher[@]}")
  # a node that vanishes must not leave ssh, and with it this command, waiting for ever
  export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
else
  world=$nproc
  # a port of its own, so that two runs on one machine do not meet
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  where=(--num_accelerators "$nproc" --master_addr 127.0.0.1 --master_port "$port")
fi

# each process gets its share of a machine's cores
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + nproc - 1) / nproc ))}

# Mistakes are found here, in seconds and one line, before any process is launched.
for option in ${options[@]+"${options[@]}"}; do
  case $option in -h|--help|--help.*|--print_config*) exec python -m pretrain.train "${options[@]}" ;; esac
done
WORLD_SIZE=$world python -m pretrain.preflight ${options[@]+"${options[@]}"}

if [ -n "$hostfile" ]; then  # what the processes on other machines have to know besides the variables DeepSpeed passes on
  DS_ENV_FILE=$(mktemp)
  export DS_ENV_FILE
  trap 'rm -f "$DS_ENV_FILE"' EXIT
  env | grep -E '^(PATH|LD_LIBRARY_PATH|DS_ACCELERATOR|OMP_NUM_THREADS|MAHA_[A-Z_]+|GLOO_[A-Z_]+|TORCH_NCCL_[A-Z_]+)=' \
    >"$DS_ENV_FILE" || true
fi

# (in a session of its own: the launcher would answer a terminal's Ctrl-C by killing its processes)
setsid deepspeed --log_level "${MAHA_LAUNCHER_LOG:-error}" "${where[@]}" --no_local_rank \
  --module pretrain.train ${options[@]+"${options[@]}"} &
runner=$!

# signal_ranks SIGNAL: hand it to the processes that train, which finish their step, save and end; the launcher would die of
# it and leave them behind.
signal_ranks() {
  if [ -n "$hostfile" ]; then
    # ([-] keeps the pattern from finding the command that looks for it)
    pattern="[-]m pretrain.train $(sed 's/[][\\.*^$(){}?+|/]/\\&/g' <<<"${options[*]}")"
    PDSH_RCMD_TYPE=ssh pdsh -w "$hosts" "pkill -$1 -f -- '$pattern'" || true
  else  # they are the launcher's grandchildren
    for node in $(pgrep -P "$runner"); do
      for rank in $(pgrep -P "$node"); do kill "-$1" "$rank" 2>/dev/null || true; done
    done
  fi
}
stopped=""
trap 'stopped=1; signal_ranks TERM' TERM
# a second Ctrl-C ends at once; SIGTERM besides, for processes that do not train yet
trap 'signal_ranks INT; [ -z "$stopped" ] || signal_ranks TERM; stopped=1' INT
status=0
wait "$runner" || status=$?
while kill -0 "$runner" 2>/dev/null; do wait "$runner" || true; done  # a wait that ended with a signal
if [ -n "$stopped" ]; then
  status=0
  wait "$runner" || status=$?
fi
exit "$status"
