"""What the notebooks of this course built, room by room, under the field's own names.

Shared by all notebooks:
- data: images of MNIST, of a file or a folder; the same digits in another hand; batches; rings and
  grids of Gaussians
- latents: named random streams, latents, classes, spherical interpolation (slerp)
- networks: MLP GAN, DCGAN, networks on points, several heads on one body
- layers: fused batch normalization, upsampling convolution, spectral normalization
- losses: minimax, non-saturating, least squares (LSGAN), hinge, Wasserstein (WGAN), gradient
  penalty (WGAN-GP), R1, weight clipping
- steps: the training step, one for all games; moving average of weights (EMA); several D updates;
  several devices
- training, checkpoints: a run, its loop, and how it goes on after a crash
- metrics: Fréchet distance (FID), kernel distance (KID), classifier score (Inception score),
  precision and recall, density and coverage, mode coverage, support size, nearest neighbors,
  label accuracy, intra-class Fréchet distance, cluster error
- classifier, stroke_attributes: the eye of these scores; slant and width of strokes
- exercises: what a check says of an answer; the student's copy of an exercise notebook
- figures, runtime, validation: what is seen; precision and profiles; is this input fit?
- _mnist, _image_files, _atomic, _page: how files are found, read, written whole, and exported
- _morph: how strokes are worn, grown, swollen, broken
- __main__: `python -m ganutils`, what is on this machine, and a self-test

Families, which use these rooms and never each other:
- families.mode_collapse: label smoothing, feature matching, historical averaging, minibatch
  discrimination, packing (PacGAN), virtual batch normalization
- families.conditional: conditional GAN, projection discriminator, auxiliary classifier (AC-GAN)
- families.infogan: InfoGAN
- families.invariance: what moving an image leaves alone: consistency, information (IMSAT)
- families.bigan: BiGAN (ALI), its encoder loss; a plain autoencoder; inversion
- families.aae: adversarial autoencoder (AAE), clusters without labels
- families.lapgan: LAPGAN, a GAN for each level of a Laplacian pyramid
- families.latent_directions: truncation, attribute directions, principal directions (GANSpace)
- families.pix2pix: image to image from pairs: U-Net, PatchGAN, adversarial loss and L1
- families.cyclegan: CycleGAN, two translators without pairs, a buffer of generated images
- families.export: a page in which a browser draws with the generator
- families.stargan: StarGAN, one generator for many looks
- families.stylegan: StyleGAN, a style for every layer; path lengths, shares of variance
- families.biggan: BigGAN, class-conditional normalization, self-attention, standing statistics
"""

import os
import sys

__version__ = "0.2.0"

# Whatever room is imported first: Keras chooses its backend once, when somebody imports it.
if "keras" in sys.modules:  # somebody was first, and Keras has chosen
    backend = sys.modules["keras"].config.backend()
else:
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # over keras.json
if backend != "tensorflow":
    raise ImportError(
        f"KERAS_BACKEND (or keras.json) says {backend!r}, and this course is written for "
        "TensorFlow: set KERAS_BACKEND=tensorflow, and start Python again."
    )
