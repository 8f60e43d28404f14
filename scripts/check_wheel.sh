#!/usr/bin/env bash
# Builds the wheel and uses it from a clean environment, outside the source tree.
# usage: check_wheel.sh PYTHON
set -euo pipefail
python=$(realpath -s "${1:?usage: check_wheel.sh PYTHON}")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$python" -m build --wheel --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
size=$(du -m "$wheel" | cut -f1)
[ "$size" -le 30 ] || { echo "wheel is $size MB; the limit is 30" >&2; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" "$wheel"
installed=$("$work/venv/bin/python" -P -c 'import importlib.util as u; print(u.find_spec("ultrafuser").submodule_search_locations[0])')
(cd "$root/src/ultrafuser" && find . -type f -not -path '*/__pycache__/*') | while read -r file; do
  [ -f "$installed/$file" ] || { echo "the wheel lacks $file" >&2; exit 1; }
done
cd "$work"
"$work/venv/bin/ultrafuser" --help >/dev/null
"$work/venv/bin/python" - <<'PY'
import ultrafuser
from ultrafuser import zoo

assert "site-packages" in ultrafuser.__file__, ultrafuser.__file__
for name in zoo.names():
    assert (zoo.path(name) / "model.safetensors").is_file(), name
from transformers import AutoConfig

assert AutoConfig.for_model("ultrafuser").model_type == "ultrafuser"
PY
echo "wheel: $(basename "$wheel") ($size MB) imports from a clean environment"
