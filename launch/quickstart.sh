#!/usr/bin/env bash
# From a fresh machine to three trained models, their perplexity and a report: bash launch/quickstart.sh [FOLDER]
# Set-up, the offline sample, a small MAHA, a Transformer and a Longformer on the same token budget, evaluation.
# A second call continues where a first one stopped. FOLDER (default: here) gets data/sample and runs/.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set/{s/^# //p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  -*)
    echo "error: launch/quickstart.sh has no option $1; it takes a folder alone" >&2
    exit 2
    ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$PWD}
mkdir -p "$folder"
cd "$folder"

bash "$root/launch/setup.sh"
bin=${MAHA_VENV:-$root/.venv}/bin
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

"$bin/python" -m data_pipeline.prepare --source sample --out data/sample

cores=$(nproc)
processes=$((cores < 2 ? 1 : 2))
if [ "$("$bin/python" -P "$root/maha_model/device.py")" -gt 0 ]; then processes=1; fi
for name in sample sample_transformer sample_longformer; do
  bash "$root/launch/pretrain.sh" --config "$root/pretrain/configs/$name.yaml" --nproc "$processes" --resume auto
done

"$bin/python" "$root/eval/compare.py" runs/sample runs/sample_transformer runs/sample_longformer \
  --data data/sample --stride 384 --out runs/report
