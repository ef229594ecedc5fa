"""Model folders: weights and config come back, damage is named."""

import numpy as np
import pytest

from maskflow_jax.models import model_folder
from maskflow_jax.models.model_folder import find_model, read_model, save_model

PARAMS = {
    "head": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)},
    "blocks": {"spatial": {"bias": np.arange(4, dtype=np.float32)}},
    "scale": np.float32([2.5]),
}
CONFIG = {"seed": 3, "model": {"width": 8}}


def test_what_was_saved_is_read(tmp_path):
    save_model(tmp_path / "m", CONFIG, PARAMS)
    config, params = read_model(find_model(tmp_path / "m"))
    assert config == CONFIG
    assert params["head"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(params["head"]["kernel"], PARAMS["head"]["kernel"], rtol=1e-3)
    np.testing.assert_array_equal(params["blocks"]["spatial"]["bias"], np.arange(4))
    assert params.keys() == PARAMS.keys()


def test_a_shipped_model_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "PRETRAINED", tmp_path)
    save_model(tmp_path / "mine", CONFIG, PARAMS)
    assert find_model("mine") == tmp_path / "mine"
    assert find_model("other") is None
    assert find_model(tmp_path) is None


def test_a_cut_file_is_named(tmp_path):
    save_model(tmp_path, CONFIG, PARAMS)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        read_model(tmp_path)


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"head\.kernel cannot be stored"):
        save_model(tmp_path, CONFIG, {"head": {"kernel": np.float32([1e6])}})
    assert find_model(tmp_path) is None
