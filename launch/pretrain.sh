#!/usr/bin/env bash
# Train on one node or many: bash launch/pretrain.sh --config FILE [--nproc N] [--hostfile F] [--launcher L] [--restarts N] [any option]
#   --nproc N     processes on this machine (default: its GPUs, or 1 without)
#   --hostfile F  lines "HOST slots=N": train on all of them, started by
#   --launcher L  pdsh (over ssh, the default), openmpi (mpirun) or slurm (srun, in an allocation)
#   --restarts N  after a fault (not a mistake: status 2, not a run that diverges: 4, not a signal) start again from the newest checkpoint, up to N times in a row
#                 without a newer one (default 0)
# Everything else goes to the run's configuration; see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $1" >&2; exit 2; }

nproc="" hostfile="" launcher="" restarts=0 options=()
while [ $# -gt 0 ]; do
  case $1 in
    --nproc|--hostfile|--launcher|--restarts)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in
        --nproc) nproc=$2 ;;
        --hostfile) hostfile=$2 ;;
        --launcher) launcher=$2 ;;
        --restarts) restarts=$2 ;;
      esac
      shift 2 ;;
    --nproc=*|--hostfile=*|--launcher=*|--restarts=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    *) options+=("$1"); shift ;;
  esac
done

# `maha train` and studies name the interpreter they run in; otherwise a checkout makes its own environment
if [ -n "${MAHA_PYTHON:-}" ]; then
  scripts=$("$MAHA_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  export PATH="$scripts:$PATH"
else
  bash "$root/launch/setup.sh"
  venv=$(cd "${MAHA_VENV:-$root/.venv}" && pwd)
  export PATH="$venv/bin:$PATH" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
fi
python=${MAHA_PYTHON:-python}

for option in ${options[@]+"${options[@]}"}; do
  case $option in -h|--help|--help.*|--print_config*) exec "$python" -m pretrain.train "${options[@]}" ;; esac
done

gpus=$("$python" -P "$root/maha_model/device.py")  # those that the processes will use: not nvidia-smi's, with its own rules
visible=${CUDA_VISIBLE_DEVICES:-}
if [ "$gpus" -eq 0 ]; then
  [ -n "$hostfile" ] || export DS_ACCELERATOR=cpu  # other hosts find out what they have
  # the launcher refuses this variable without a GPU
  unset CUDA_VISIBLE_DEVICES
fi
[ -n "$nproc" ] || nproc=$((gpus > 0 ? gpus : 1))
[[ $nproc =~ ^[1-9][0-9]*$ ]] || fail "--nproc is '$nproc'; it must be a positive number"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts is '$restarts'; it must be a number, 0 for none"
if [ -n "$hostfile" ]; then
  hostfile=${hostfile/#\~\//$HOME/}  # which bash leaves as it is after `--hostfile=`
  [ -s "$hostfile" ] || fail "--hostfile $hostfile does not exist or is empty; write one line 'HOST slots=N' per node"
  nodes=$(sed -nE 's/^[[:space:]]*([^#[:space:]]+)[[:space:]]+slots=([0-9]+).*/\1 \2/p' "$hostfile")
  [ -n "$nodes" ] || fail "--hostfile $hostfile has no 'slots='; write one line 'HOST slots=N' per node"
  world=$(awk '{n += $2} END {print n}' <<<"$nodes")
  nproc=$(awk '$2 > n {n = $2} END {print n}' <<<"$nodes")
  launcher=${launcher:-pdsh}
  case $launcher in
    pdsh) program=pdsh ;;
    openmpi) program=mpirun ;;
    slurm) program=srun ;;
    *) fail "--launcher is '$launcher'; it must be pdsh, openmpi or slurm" ;;
  esac
  command -v "$program" >/dev/null || fail "--launcher $launcher needs $program, which is not installed here"
  [ "$launcher" != slurm ] || [ -n "${SLURM_JOB_ID:-}" ] \
    || fail "--launcher slurm needs an allocation; run it under salloc, or submit launch/pretrain.sbatch"
else
  [ -z "$launcher" ] || fail "--launcher $launcher needs --hostfile"
  [ "$gpus" -eq 0 ] || [ "$nproc" -le "$gpus" ] \
    || fail "--nproc $nproc, but only $gpus GPU(s) can be used here; give --nproc $gpus, or set DS_ACCELERATOR=cpu"
  devices=$(seq -s , 0 $((nproc - 1)))
  if [ "$gpus" -gt 0 ] && [ -n "$visible" ]; then
    [[ $visible =~ ^[0-9]+(,[0-9]+)*$ ]] \
      || fail "CUDA_VISIBLE_DEVICES is '$visible'; give the GPUs' numbers, such as 0,1"
    unset CUDA_VISIBLE_DEVICES
    devices=$(cut -d, -f"1-$nproc" <<<"$visible")
  fi
  processes=$(base64 -w 0 <<<"{\"localhost\": [$devices]}" | tr +/ -_)  # as DeepSpeed's launcher takes them
  world=$nproc
fi

# each process gets its share of a machine's cores
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( ($(nproc) + nproc - 1) / nproc ))}

# Mistakes are found here, in seconds and one line, before any process is launched.
WORLD_SIZE=$world "$python" -m pretrain.preflight ${options[@]+"${options[@]}"}

MAHA_LAUNCH=$(</proc/sys/kernel/random/uuid)  # what signal_ranks.py finds this launch's processes by, on any host
export MAHA_LAUNCH
# (with restarts what ended a start is in the line on the next one)
level=$([ "$restarts" -eq 0 ] && echo error || echo critical)
deepspeed=("$python" -P "$root/launch/deepspeed_launcher.py")
module=(--log_level "${MAHA_LAUNCHER_LOG:-$level}" --no_local_rank --module)
if [ -n "$hostfile" ]; then
  # what pdsh and mpirun pass on only by name; srun passes on everything
  variables=$(compgen -e | grep -E \
    '^(PATH|LD_LIBRARY_PATH|PYTHONPATH|DS_ACCELERATOR|OMP_NUM_THREADS|(MAHA|MLFLOW|GLOO|NCCL|TORCH_NCCL|TORCH_FR)_.*)$')
  given_port=${MASTER_PORT:-}
  file=$(mktemp)
  trap 'rm -f "$file"' EXIT
fi
case $launcher in
  pdsh)
    for name in $variables; do echo "$name=${!name}"; done >"$file"
    export DS_ENV_FILE=$file
    # a node that vanishes must not leave ssh, and with it this command, waiting for ever
    export PDSH_SSH_ARGS_APPEND="${PDSH_SSH_ARGS_APPEND:-} -o ServerAliveInterval=5 -o ServerAliveCountMax=3" ;;
  openmpi)  # mpirun itself: DeepSpeed's form gives the processes neither rank nor rendezvous
    # a lost node is found after 20 s, not 8 minutes
    export OMPI_MCA_oob_tcp_keepalive_{time,intvl}=5 OMPI_MCA_oob_tcp_keepalive_probes=3
    mpi=(mpirun --hostfile "$hostfile" --map-by slot --bind-to none)  # (its default is one core for each process)
    # the first process is on this host if the file names it, else on the file's first
    MASTER_ADDR=$("${mpi[@]}" -n "$world" sh -c '[ "$OMPI_COMM_WORLD_RANK" != 0 ] || hostname -I' 2>"$file" \
      | awk 'NR == 1 {print $1}') \
      || fail "mpirun cannot start processes on the hosts of $hostfile ($(tr -d '\r' <"$file" | grep -m 1 .)); try: ${mpi[*]} hostname"
    export MASTER_ADDR
    for name in $variables MASTER_ADDR MASTER_PORT; do mpi+=(-x "$name"); done ;;
  slurm)  # srun itself, for the same reason; one task for each line of a list of hosts
    awk '{for (i = 0; i < $2; i++) print $1}' <<<"$nodes" >"$file"
    MASTER_ADDR=$(scontrol --oneliner show node "${nodes%% *}" | sed -nE 's/.*NodeAddr=([^ ]+).*/\1/p') \
      || fail "Slurm has no node ${nodes%% *}, the first of $hostfile; name the nodes as squeue does"
    export MASTER_ADDR SLURM_HOSTFILE=$file ;;
esac

# prepare_start NUMBER: the command of that start, counted from 0, into `start`
prepare_start() {
  local train=(pretrain.train ${options[@]+"${options[@]}"}) port
  # a port for each start: what is left of the start before, on a host out of reach, does not meet the new processes (far
  # from the last one: the next job of Slurm has the next number)
  [ -z "$hostfile" ] || export MASTER_PORT=${given_port:-$((20000 + (${SLURM_JOB_ID:-9500} + $1 * 7919) % 20000))}
  case $launcher in
    "")
      # a port of its own, so that two runs on one machine do not meet
      port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
      # (what the command `deepspeed` would start once it has imported itself)
      start=("${deepspeed[@]}" launch --world_info "$processes" --master_port "$port" "${module[@]}" "${train[@]}") ;;
    pdsh)  # (--force_multi: a single host need not be this one)
      start=("${deepspeed[@]}" runner --hostfile "$hostfile" --force_multi --master_port "$MASTER_PORT")
      start+=("${module[@]}" "${train[@]}") ;;
    openmpi) start=("${mpi[@]}" -n "$world" "$python" -u -m "${train[@]}") ;;
    slurm) start=(srun -n "$world" --distribution=arbitrary --kill-on-bad-exit=1 "$python" -u -m "${train[@]}") ;;
  esac
}

# check_hosts: whether pdsh can start a run on all hosts; a line of error about those where it cannot
check_hosts() {
  local interpreter there faults
  interpreter=$(printf '%q' "$(command -v "$python")")
  there="cd $(printf '%q' "$PWD") && if [ -x $interpreter ]; then echo reached; else echo it has no $interpreter; fi"
  # (one pdsh for each host, since it labels a line with a part of the host's name)
  faults=$(awk '{print $1}' <<<"$nodes" \
    | PDSH_RCMD_TYPE=ssh PDSH_SSH_ARGS_APPEND="$PDSH_SSH_ARGS_APPEND -o BatchMode=yes -o ConnectTimeout=10" \
      xargs -P 32 -n 1 sh -c 'echo "$1 ($(pdsh -N -w "$1" "$0" 2>&1 | tr -d "\r" | grep -m 1 .))"' "$there" \
    | grep -v ' (reached)$' | paste -sd ';' | sed 's/;/; /g') || true
  [ -n "$faults" ] || return 0
  echo "error: no run can start on $faults: give --hostfile hosts that ssh reaches without a password, with this" \
    "folder and this Python at the same paths" >&2
  return 1
}

# signal_found SIGNAL: send it to all processes of this launch that run on its hosts, and print their numbers
signal_found() {
  if [ -z "$hostfile" ]; then
    "$python" "$root/launch/signal_ranks.py" "$1" "$MAHA_LAUNCH" || true
    return
  fi
  local hosts find
  hosts=$(awk '{print $1}' <<<"$nodes" | paste -sd,)
  find=$(printf '%q %q' "$(command -v "$python")" "$root/launch/signal_ranks.py")
  PDSH_RCMD_TYPE=ssh pdsh -w "$hosts" "$find $1 $MAHA_LAUNCH" || true
}

# signal_ranks SIGNAL: send it to the processes that train, which finish their step, save and end; it would end DeepSpeed's
# launcher and leave them running.
signal_ranks() {
  [ -n "$runner" ] || return 0
  case $launcher in
    "")  # they are the launcher's children
      for rank in $(pgrep -P "$runner" -f -- "-m pretrain\.train"); do ! kill "-$1" "$rank" 2>/dev/null || found=1; done ;;
    pdsh) [ -z "$(signal_found "$1")" ] || found=1 ;;
    *)  # mpirun and srun pass SIGUSR1 on, and at SIGTERM end the processes; SIGINT too would make them go without
      [ "$1" = INT ] || kill "-$1" "$runner" 2>/dev/null || true ;;
  esac
}

# kill_left: end what is left of a start that has failed; mpirun and srun leave nothing
kill_left() {
  case $launcher in ""|pdsh) signal_found KILL >/dev/null 2>&1 ;; esac  # (a host may be out of reach)
}

stopped="" runner="" found=""
# (SIGHUP: the terminal or the connection of ssh has closed. Under nohup it is ignored, and the run goes on.)
trap 'stopped=1; signal_ranks USR1' TERM HUP
# A second Ctrl-C ends at once: SIGTERM besides, for processes that do not train yet, and SIGINT again and again, since one
# that arrives together with the first Ctrl-C's signal, after a stall, counts as the first.
end_at_once() {
  signal_ranks INT
  signal_ranks TERM
  while sleep 1 && kill -0 "$runner" 2>/dev/null; do signal_ranks INT; done
}
trap 'if [ -z "$stopped" ]; then stopped=1; signal_ranks USR1; else end_at_once; fi' INT

# repeat_stop: a signal that came before the launcher had any processes would be lost
repeat_stop() {
  while [ -n "$stopped" ] && [ -z "$found" ] && kill -0 "$runner" 2>/dev/null; do
    sleep 1 || true
    [ -n "$found" ] || signal_ranks USR1
  done
}

# run_once: start the command of `start` and wait for its end; its exit status into `status`
run_once() {
  # (in a session of its own: at a terminal's Ctrl-C a launcher would kill its processes)
  setsid "${start[@]}" &
  runner=$!
  status=0
  wait "$runner" || status=$?
  while kill -0 "$runner" 2>/dev/null; do  # a wait that ended with a signal
    case $launcher in ""|pdsh) repeat_stop ;; esac
    wait "$runner" || true
  done
  if [ -n "$stopped" ]; then
    status=0
    wait "$runner" || status=$?
  fi
  runner=""
}

# judge begin|end ...: what keeps count of the restarts without a newer checkpoint
judge() {
  "$python" -m pretrain.restarts "$@" --launch "$MAHA_LAUNCH" --budget "$restarts" -- ${options[@]+"${options[@]}"}
}

# One loop for all launchers. torchrun's --max-restarts starts the processes of one host, also after a mistake, and counts
# without regard to checkpoints: pdsh, mpirun and srun would need this loop besides.
[ "$restarts" -eq 0 ] || judge begin
for ((number = 0; ; number++)); do
  prepare_start "$number"
  [ -z "$stopped" ] || exit 130
  if [ "$launcher" != pdsh ] || check_hosts; then run_once; else status=2; fi
  [ "$restarts" -gt 0 ] && [[ ! $status =~ ^[04]$ ]] && [ -z "$stopped" ] || exit "$status"
  # a mistake at a start again passes, perhaps: the first start did not make it (MLflow is away, a device is gone)
  [ "$status$number" != 20 ] || exit "$status"
  kill_left
  answer=$(judge end --status "$status") || exit "$status"
  [ -z "$stopped" ] || exit "$status"  # a signal came meanwhile
  read -r pause _ resume <<<"$answer"
  sleep "$pause" &
  wait $! || kill $! 2>/dev/null || true  # a signal has come
  [ -z "$stopped" ] || exit "$status"
  options+=(--resume "$resume")
done
