"""How well a tokenizer keeps frames: PSNR, SSIM, and how much of its codebook it uses.

PSNR is 10 log10(255^2 / E) with the squared error E averaged over a frame's pixels and colours; it
is reported as the mean over frames, and from E over all frames together, which one bad frame moves
more. SSIM is scikit-image's, with the Gaussian window of its authors, as the mean over frames.

Source: Wang et al. 2004 (SSIM).
"""

import numpy as np

from maskflow_jax.tokenizers.psnr import psnr

EXACT_PSNR = 100.0  # stands for a frame without any error, whose PSNR is infinite


def frame_psnr(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """PSNR of each frame in dB, at most `EXACT_PSNR`.

    Args:
        real: uint8 [F, H, W, 3].
        decoded: uint8 [F, H, W, 3].

    Returns:
        float64 [F].
    """
    return psnr_of(_squared_errors(real, decoded))


def psnr_of(error: np.ndarray | float) -> np.ndarray:
    """PSNR in dB of a mean squared error of uint8 pixels, at most `EXACT_PSNR`."""
    least = 255**2 / 10 ** (EXACT_PSNR / 10)
    return psnr(np.maximum(error, least), value_range=255.0)


def frame_ssim(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """SSIM of each frame, over its colours.

    Args:
        real: uint8 [F, H, W, 3], sides of at least 11 pixels.
        decoded: uint8 [F, H, W, 3].

    Returns:
        float64 [F].

    Raises:
        ImportError: if scikit-image is missing.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(
            "SSIM is scikit-image's, which is not installed: pip install "
            "'maskflow_jax[report]' (or '.[report]' in a checkout)"
        ) from error
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array(
        [
            structural_similarity(a, b, channel_axis=-1, data_range=255, **settings)
            for a, b in zip(real, decoded, strict=True)
        ]
    )


def code_statistics(counts: np.ndarray) -> dict[str, float]:
    """How evenly codes are used.

    Args:
        counts: int [K], how often each was chosen.

    Returns:
        `codes_used`, `code_usage` (their share of all) and `perplexity` (exp of the entropy: the
        number of codes that, used evenly, would tell as much).
    """
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes_used": int(np.count_nonzero(counts)),
        "code_usage": float(np.mean(counts > 0)),
        "perplexity": float(np.exp(-np.sum(shares * np.log(shares)))),
    }


class Reconstruction:
    """Figures gathered over videos.

    Attributes:
        videos: number of videos so far.
    """

    def __init__(self, codebook_size: int):
        self.videos = 0
        self._errors, self._psnr, self._ssim = [], [], []
        self._counts = np.zeros(codebook_size, np.int64)

    def add(self, real: np.ndarray, tokens: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        """Takes a video in.

        Args:
            real: uint8 [F, H, W, 3].
            tokens: int [F, h, w].
            decoded: uint8 [F, H, W, 3].

        Returns:
            The video's own `psnr` and `ssim`.
        """
        psnr, ssim = frame_psnr(real, decoded), frame_ssim(real, decoded)
        self.videos += 1
        self._errors.append(_squared_errors(real, decoded))
        self._psnr.append(psnr)
        self._ssim.append(ssim)
        self._counts += np.bincount(tokens.reshape(-1), minlength=len(self._counts))
        return {"psnr": float(psnr.mean()), "ssim": float(ssim.mean())}

    def summary(self) -> dict[str, float]:
        """The figures over all videos: every frame counts the same."""
        errors = np.concatenate(self._errors)
        return {
            "videos": self.videos,
            "frames": len(errors),
            "psnr": float(np.concatenate(self._psnr).mean()),
            "psnr_of_all_pixels": float(psnr_of(errors.mean())),
            "ssim": float(np.concatenate(self._ssim).mean()),
            **code_statistics(self._counts),
        }


def _squared_errors(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame: float64 [F]."""
    # Frame by frame: float64 copies of a whole video would be eight times its size.
    pairs = zip(real, decoded, strict=True)
    return np.array([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs])
