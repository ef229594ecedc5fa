"""Says what this machine has and tries to generate, in text that can be pasted into an issue.

    python -m launch.doctor

prints versions, devices, memory, the attention kernel, video codecs, and the speed of a few seconds
of the shipped model; `--nogenerate` leaves that out.
"""

from absl import flags

from launch import cli
from launch.startup import start

_GENERATE = flags.DEFINE_bool("generate", True, "Whether to generate for a few seconds.")


def main(_) -> None:
    """Prints."""
    start()
    from maskflow_jax.doctor import examine

    print(examine(generate=_GENERATE.value), end="", flush=True)


if __name__ == "__main__":
    cli.run(main)
