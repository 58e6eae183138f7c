"""Training methods: one small file each, on the hooks of `lfm_ray.methods.base.Method`.

    method       changes    how                                                        passes  x    m    source
    lfm          L          (1 - alpha) L_CLS + alpha L_MM; alpha = 0: joint training  1 1     1.0  any  NeurIPS 2024
    official     L Y        twice that, with the mean of the unimodal logits           1 1     1.0  any  its code
    unimodal     L          each modality learns on its own                            1 1     1.0  any  -
    mses         H L R      a modality stops when its validation loss has stopped      1 1     1.0  any  ACPR 2019
    g_blend      H L        losses weighed by how much each generalises and overfits   1 1     1.0  any  CVPR 2020
    ogm_ge       G          smaller gradients for the encoder ahead, and noise         1 1     1.1  2    CVPR 2022
    greedy       H L G      steps on a modality alone when it learns too slowly        1 1     1.0  any  ICML 2022
    domfn        H L Y      samples on which the modalities diverge are not fused      1 1     1.0  2    ACM MM 2022
    mslr         R          a learning rate for each modality, fixed or by its gain    1 1     1.0  any  Findings 2022
    pmr          L          slow modalities are drawn to the prototypes of classes     1 1     1.0  2    CVPR 2023
    agm          L G        gradients by Shapley-style shares of the fused logits      1 1     1.0  any  ICCV 2023
    etmc         H L Y      opinions of the modalities, fused by Dempster's rule       1 1     1.0  any  TPAMI 2023
    umt          H L        teachers of single modalities give their features          2 1     1.3  any  ICML 2023
    qmf          H L Y      confidences, trained to follow the losses, weigh samples   1 1     1.0  any  ICML 2023
    mla          H L G P Y  modalities take turns through one head, projected          m 1     1.5  any  CVPR 2024
    recon_boost  H L G      modalities take turns at what the others leave             1 1     0.7  any  ICML 2024
    mmpareto     H L G      encoders descend for the multimodal and their own loss     1 2     1.7  any  ICML 2024

changes: H the required fusion head, L the loss, G gradients, R learning rates, P the loop (steps per
batch), Y the prediction. passes: forward and backward passes of each encoder per step; m is the number
of modalities. x: step time relative to joint training with the same head, for two ResNet-18, batch 16,
2 cores (`python benchmarks/methods.py`), rounded, since identical steps differ by 4 %; for recon_boost
during a modality's turn, for umt once there are teachers. Every method except `unimodal` can be combined
with L_MM by alpha.
"""

from lfm_ray.methods.base import METHODS, Losses, Method, State, scale_encoders
from lfm_ray.methods.lfm import LFM

__all__ = ["LFM", "METHODS", "Losses", "Method", "State", "scale_encoders"]
