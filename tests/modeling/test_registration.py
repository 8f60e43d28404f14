"""The Auto classes know our models, whichever module of the package or of Transformers is imported first."""

import os
import subprocess
import sys

import pytest

CHECK = """
import ultrafuser
from transformers import AutoConfig, AutoModelForCausalLM
from ultrafuser.modeling import UltraFuserConfig, UltraFuserForCausalLM
assert type(AutoConfig.for_model("ultrafuser")) is UltraFuserConfig
assert AutoModelForCausalLM._model_mapping[UltraFuserConfig] is UltraFuserForCausalLM
sparse = AutoConfig.for_model("ultrafuser-sparse")
assert type(AutoModelForCausalLM._model_mapping[type(sparse)]) is type
assert AutoModelForCausalLM._model_mapping[type(sparse)].__name__ == "SparseForCausalLM"
"""
FIRST = {
    "package": "import ultrafuser",
    "save_fused": "from ultrafuser.modeling import save_fused",
    "add_specialist": "from ultrafuser.modeling import add_specialist",
    "configuration": "import ultrafuser.modeling.configuration",
    "model": "import ultrafuser.modeling.model",
    "auto": "from transformers import AutoConfig",
    "sparse": "import ultrafuser.modeling.sparse",
    "sparse configuration": "import ultrafuser.modeling.sparse_configuration",
    "training": "import ultrafuser.training.trainer",
}


@pytest.mark.parametrize("first", FIRST)
def test_auto_classes_know_the_model_after(first):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST[first] + CHECK], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_import_is_light():
    code = "import ultrafuser, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
