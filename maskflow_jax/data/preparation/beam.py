"""Preparation on Apache Beam: the same work on each item, on any runner of Beam's pipelines.

The pipeline fills the work directory, which all workers must share; the dataset is then assembled
from it as usual. Items that are done are skipped, so a pipeline can be started again.
"""

from collections.abc import Callable, Sequence
from typing import Any

from maskflow_jax.data.preparation.run import Encoder, Preparation, prepare_items
from maskflow_jax.data.sources.items import Item

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils.shared import Shared
except ImportError as error:
    raise ImportError(
        "Beam pipelines need apache-beam, which is not installed: pip install "
        "'maskflow_jax[beam]' (or '.[beam]' in a checkout)"
    ) from error


class PrepareItem(beam.DoFn):
    """Prepares one item and yields its id."""

    def __init__(self, preparation: Preparation, make_encoder: Callable[[], Encoder]):
        self._preparation, self._make_encoder = preparation, make_encoder
        self._shared = Shared()  # one encoder for all threads of a process

    def setup(self) -> None:
        """Loads the encoder."""
        self._encoder = self._shared.acquire(self._make_encoder)

    def process(self, item: Item) -> Any:
        """Writes the item's tokens and record to the work directory."""
        work = self._preparation.work_directory()
        prepare_items(self._preparation, [item], self._encoder, work, progress=False, warm_up=False)
        yield item.id


def run_pipeline(
    preparation: Preparation,
    items: Sequence[Item],
    make_encoder: Callable[[], Encoder],
    options: Sequence[str] = (),
) -> None:
    """Prepares items in a Beam pipeline and waits for its end.

    Args:
        preparation: Preparation; every worker must see the files and the output's folder.
        items: Items of its source.
        make_encoder: Function that makes the tokenizer on the workers; must be picklable.
        options: Options of Beam as it takes them; the local runner by default.
    """
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(items))
            | beam.Reshuffle()
            | beam.ParDo(PrepareItem(preparation, make_encoder))
        )
