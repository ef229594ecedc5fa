"""MaskFlow in JAX: discrete flow matching for long video generation (arXiv 2502.11234).

A video is a sequence of token grids. Training hides each token of a frame with a probability of
that frame's own time and asks the network for the hidden ones; so one network learns every mixture
of known and unknown frames. Sampling reverses it: a window of known frames followed by masked ones
is filled in over a few steps, its last frames become the next window's context, and the video goes
on for as long as one likes.

Time runs from 0, all tokens masked, to 1, all clean. kappa(t) is the probability that a token is
clean at time t. The mask token is K, one past the codebook, and is never a valid output.

Dimensions in shapes: B batch, T frames, H W token grid, N patches of a frame, D width, K codebook
size, S sampling steps, F frames of a whole video. Lengths of a rollout: L video, k chunk (the
training window), m context, s stride.

Where to read next:
    flow/         schedules, training times, masking, loss: the method, pure functions
    models/       Latte, the video transformer
    sampling/     one loop, a matrix of times and a step rule; the chunkwise rollout
    training/     steps, state, checkpoints, the training loop
    tokenizers/   the VQ autoencoder and the tokenizer around it
    data/         sources of video, the dataset of tokens, clips
    sharding.py   where arrays live on many devices
    video_io.py   video files and contact sheets
"""
