r"""Turns videos into a dataset of tokens.

    python -m launch.prepare_data --input=my_videos --output=data/mine --tokenizer=maze --fps=8
    python -m launch.prepare_data --source=maze --output=data/maze --tokenizer=maze \
        --source_setting=train_videos=1000 --source_setting=num_frames=160

The dataset is in OUTPUT, with `manifest.jsonl`, a line for every file. The work so far lies in
OUTPUT.work: the same command goes on from there, whatever stopped it. On several machines,
`--shard=0/4` to `--shard=3/4` share the work and `--merge` makes the dataset. The exit code is 1 if
more than `--max_failed` of the videos failed.
"""

from absl import flags

from launch import cli

RENAMED = {"fps": "source_fps", "key": "array_key", "root": "tfds_dir"}
SOURCE = ("split_folders", "train_list", "test_list")
FRAMES = ("fps", "frame_interval", "min_frames", "max_frames", "crop", "shortest_side")
FRAMES += ("upsample", "downsample")
WORK = ("test_fraction", "segment_frames", "overwrite", "keep_work", "max_failed", "batch_size")
WORK += ("memory_gb", "dtype", "workers", "shard", "merge", "beam", "captions")

flags.DEFINE_string("source", "video_files", "Kind of the input: a name in data.sources.registry.")
flags.DEFINE_string("input", None, "Folder or file; for tfds a name; none for rendered mazes.")
flags.DEFINE_string("output", None, "Dataset to write.", required=True)
flags.DEFINE_string("tokenizer", None, "Tokenizer: a directory or a name.", required=True)
flags.DEFINE_float("source_fps", None, "Frames per second of images, arrays and tokens.")
flags.DEFINE_bool("split_folders", None, "Take splits from folders named train and test.")
flags.DEFINE_string("array_key", None, "Array of npz files, or feature of a TFDS dataset.")
flags.DEFINE_string("tfds_dir", None, "TFDS's data directory.")
flags.DEFINE_string("train_list", None, "Official list of UCF101's training videos.")
flags.DEFINE_string("test_list", None, "Official list of UCF101's test videos.")
flags.DEFINE_multi_string("source_setting", [], "name=value: any other setting of the source.")
flags.DEFINE_float("fps", None, "Rate to resample to; the files' own by default.")
flags.DEFINE_integer("frame_interval", None, "Distance between the frames to keep.")
flags.DEFINE_integer("min_frames", None, "Length of the shortest video; 16 by default.")
flags.DEFINE_integer("max_frames", None, "Length at which longer videos are cut.")
flags.DEFINE_list("crop", None, "left,top,width,height to cut out first, in pixels.")
flags.DEFINE_integer("shortest_side", None, "Scale to this, then cut the middle square.")
flags.DEFINE_string("upsample", None, "Pillow's filter to enlarge with; bicubic.")
flags.DEFINE_string("downsample", None, "Pillow's filter to shrink with; box.")
flags.DEFINE_float("test_fraction", 0.05, "Share of the videos to test on; 0 for no test split.")
flags.DEFINE_string("captions", None, "JSONL: file, start, end, label and caption of scenes.")
flags.DEFINE_integer("segment_frames", None, "Length of records to cut longer videos into.")
flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
flags.DEFINE_integer("batch_size", None, "Number of frames encoded at a time; up to 64.")
flags.DEFINE_float("memory_gb", None, "Memory of each device to choose the batch size by.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type the tokenizer computes in.")
flags.DEFINE_integer("workers", 0, "Number of processes that decode; 0: a thread.")
flags.DEFINE_string("shard", None, "i/n: do this share of the videos, no dataset.")
flags.DEFINE_bool("merge", False, "Make the dataset of finished shards.")
flags.DEFINE_multi_string("beam", None, "Work in a Beam pipeline; an option of Beam's.")
flags.DEFINE_bool("dry_run", False, "Say what to expect, write nothing.")
flags.DEFINE_bool("keep_work", False, "Keep OUTPUT.work after success.")
flags.DEFINE_float("max_failed", 0.0, "Share of failed videos to accept.")


def main(_) -> int:
    """Prepares the dataset, or says what to expect."""
    from launch.startup import start  # here: decoding processes import this file and need no JAX
    from maskflow_jax.data.preparation import prepare
    from maskflow_jax.data.sources.registry import read_settings

    start()
    flag = flags.FLAGS.flag_values_dict()
    given = {name: flag[name] for name in ("source", "input", "output", "tokenizer")}
    renamed = {field: flag[name] for field, name in RENAMED.items()}
    more = read_settings(flag["source"], flag["source_setting"])
    given["source_settings"] = renamed | {name: flag[name] for name in SOURCE} | more
    given["frames"] = {name: flag[name] for name in FRAMES}
    given["settings"] = prepare.PreparationSettings(**{name: flag[name] for name in WORK})
    if flag["dry_run"]:
        print(prepare.estimate_dataset(**given))
        return 0
    return int(prepare.prepare_dataset(**given).failed_share > flag["max_failed"])


if __name__ == "__main__":
    cli.run(main)
