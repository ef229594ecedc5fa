"""The dataset that the `data` section of a maze config asks for."""

from collections.abc import Mapping

from maskflow_jax.data.preparation.prepare import PreparationSettings, prepare_dataset


def write_dataset(data: Mapping, *, overwrite: bool = False, **tokenizer_settings) -> None:
    """Renders, encodes and writes a dataset of maze walks.

    Args:
        data: The section.
        overwrite: Whether to replace an existing dataset.
        **tokenizer_settings: Settings of `Tokenizer.load`: `memory_gb`, `dtype`.
    """
    source = dict(data["source"])
    keys = {"name", "num_videos", "num_frames", "fps", "seed"}
    if "name" not in source:
        raise ValueError(
            f"data.source names nothing to render: {data['directory']} is made by the commands in "
            "the config's docstring"
        )
    if source.keys() != keys:
        raise ValueError(f"data.source has {sorted(source)}; it takes {sorted(keys)}")
    if source["name"] != "maze":
        raise ValueError(f"unknown data.source.name {source['name']!r}; there is: maze")
    count = source["num_videos"]
    prepare_dataset(
        source="my_way_home",
        output=data["directory"],
        tokenizer=data["tokenizer"],
        source_settings={
            "num_videos": count.get("train", 0),
            "num_test_videos": count.get("test", 0),
            **{name: source[name] for name in ("num_frames", "fps", "seed")},
        },
        frames={"min_frames": 1},
        settings=PreparationSettings(overwrite=overwrite, **tokenizer_settings),
    )
