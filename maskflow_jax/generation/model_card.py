"""The card of an exported model, for a model that brings none."""

from maskflow_jax.config import Config
from maskflow_jax.io.provenance import command_line, markdown_table, package_versions


def model_card(
    config: Config, *, name: str, num_parameters: int, step: int, dtype: str, digest: str
) -> str:
    """Describes a model in markdown.

    Args:
        config: Config of the model.
        name: Name of the folder that it comes from.
        num_parameters: Number of its parameters.
        step: Number of optimizer steps that they have seen.
        dtype: Type of its stored weights.
        digest: SHA-256 of the names and bytes of the stored weights.
    """
    height, width = config.tokenizer.grid
    facts = [
        ("network", f"Latte, {num_parameters / 1e6:.2f} M parameters"),
        ("weights", f"moving average after {step} steps, stored in {dtype}"),
        ("window", f"{config.data.clip_frames} frames of {height} x {width} tokens"),
        ("tokenizer", f"{config.tokenizer.name}, {config.tokenizer.codebook_size} codes"),
        ("sampler", f"{config.sampling.sampler.name} unless another is asked for"),
        ("versions", package_versions()),
    ]
    hashes = [("weights", f"`{digest}`"), ("tokenizer", f"`{config.tokenizer.sha256}`")]
    return "\n".join(
        [
            f"# Model {name}\n",
            markdown_table("", facts),
            "```python\nimport maskflow_jax as mf\n\n"
            'generator = mf.VideoGenerator.load(".")\n```\n',
            "All settings of its training are in `config.json`. Exported by\n\n"
            f"```bash\n{command_line()}\n```\n",
            markdown_table("SHA-256 of", hashes),
            "Not stated here: the licence of the data, what the model was measured to do, and what "
            "it should not be used for. Please add them.\n",
        ]
    )
