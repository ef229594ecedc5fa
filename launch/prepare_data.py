r"""Turns videos into a dataset of tokens that `launch.train` takes.

    python -m launch.prepare_data --input=my_videos --output=data/mine \
        --tokenizer=tokenizers/vq_f8 --fps=8

The dataset is in OUTPUT, with `manifest.jsonl`, a line for every file. What is done so far lies in
OUTPUT.work: the same command started again goes on from there, whatever stopped it. On several
machines, `--shard=0/4` to `--shard=3/4` share the work and `--merge` makes the dataset. `--dry_run`
says what to expect. The exit code is 1 if more than `--max_failed` of the videos failed.
"""

import sys

from absl import app, flags

_FILES = ("video_files", "images", "arrays")
_SOURCES = (*_FILES, "faceforensics", "dmlab", "ucf101", "tfds", "maze")
flags.DEFINE_string("input", None, "Folder; for tfds a name, for maze none.")
flags.DEFINE_string("output", None, "Dataset to write.", required=True)
flags.DEFINE_string("tokenizer", None, "Tokenizer: a directory or a name.", required=True)
flags.DEFINE_enum("source", "video_files", _SOURCES, "What the input is.")
# Of the source.
flags.DEFINE_float("source_fps", None, "Frames per second of images and arrays.")
flags.DEFINE_bool("split_folders", None, "Take splits from folders named train and test.")
flags.DEFINE_string("array_key", None, "Array of npz files, or feature of a TFDS dataset.")
flags.DEFINE_string("tfds_dir", None, "TFDS's data directory.")
flags.DEFINE_string("train_list", None, "Official list of UCF101's training videos.")
flags.DEFINE_string("test_list", None, "Official list of UCF101's test videos.")
flags.DEFINE_list("maze", [], "Settings of maze: train_videos=600,test_videos=32,num_frames=240.")
# Of the frames; None is the source's default.
flags.DEFINE_float("fps", None, "Resample to this rate; the files' own by default.")
flags.DEFINE_integer("frame_interval", None, "Keep every n-th frame.")
flags.DEFINE_integer("min_frames", None, "Shortest video: the training window. Default 16.")
flags.DEFINE_integer("max_frames", None, "Cut longer videos off.")
flags.DEFINE_list("crop", None, "left,top,width,height to cut out first, in pixels.")
flags.DEFINE_integer("shortest_side", None, "Scale to this, then cut the middle square.")
flags.DEFINE_string("upsample", None, "Pillow's filter to enlarge with; bicubic.")
flags.DEFINE_string("downsample", None, "Pillow's filter to shrink with; box.")
# Of the dataset.
flags.DEFINE_float("test_fraction", 0.05, "Share to hold out, by content.")
flags.DEFINE_integer("segment_frames", None, "Cut longer videos into such records.")
flags.DEFINE_bool("overwrite", False, "Replace a dataset that is already there.")
# Of the work.
flags.DEFINE_integer("batch_size", None, "Frames encoded at a time; up to 64.", lower_bound=1)
flags.DEFINE_float("memory_gb", None, "Choose the batch size by this memory of each device.")
flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Of the tokenizer's arithmetic.")
flags.DEFINE_integer("workers", 0, "Processes to decode with; 0: a thread.")
flags.DEFINE_string("shard", None, "i/n: do this share of the videos, no dataset.")
flags.DEFINE_bool("merge", False, "Make the dataset of finished shards.")
flags.DEFINE_multi_string("beam", None, "Work in a Beam pipeline; an option of Beam's.")
flags.DEFINE_bool("dry_run", False, "Say what to expect, write nothing.")
flags.DEFINE_bool("keep_work", False, "Keep OUTPUT.work after success.")
flags.DEFINE_float("max_failed", 0.0, "Share of failed videos to put up with.")


def main(_) -> None:
    """Does what the flags say."""
    from launch import preparing  # here, as decoding processes import this file and need no JAX
    from launch.startup import start

    start()
    sys.exit(preparing.run(flags.FLAGS.flag_values_dict()))


if __name__ == "__main__":
    app.run(main)
