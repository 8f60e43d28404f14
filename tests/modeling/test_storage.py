"""Files of a saved model: readable by others as the user's settings say, also where a library writes them for one."""

import torch
from safetensors.torch import save_file

from ultrafuser.modeling.storage import staged


def test_saved_weights_get_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x", encoding="utf-8")
    with staged(tmp_path / "model") as place:
        save_file({"w": torch.zeros(2)}, place / "model.safetensors")
        (place / "model.safetensors").chmod(0o600)
    mode = (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777
    assert mode == (tmp_path / "plain").stat().st_mode & 0o777
