"""Sets of attacks by name: those of the papers that this screener comes from, a quick one and a strong one.

The papers' figures come from code that departs from their text; the sets follow the text, in [0, 1] pixels, as far as
it goes. Where the two differ:

- The papers' FGSM and FIA add 0.03 to images that are normalised already: 0.03 x 0.247, about 1.9/255 in a CIFAR-10
  picture. Both readings are in the sets, 0.03 and 0.0075.
- FIA's code clamps the image instead of the change to +-0.03, which leaves a pattern instead of an image; here the
  change is held. Its step of 1 is one grey level, and its 0.7 the share of values kept: 0.3 is masked.
- ILA's sizes are defaults for images from -1 to 1, so they are halved here; its magnitude term is unused by the loss
  that the code runs. A step of 1 is a jump to the corner of the bound.
- CW's text names no step. The code's 0.001 is in the set beside 0.01, which needs fewer steps. One value of `const`.
- JSMA's code takes one value a step, to its highest, towards a random class, at most 12 % of the values: 368 steps.
- The local search's rounds and first pixels are those of the library that the code calls; a different program of the
  same authors searches with other settings.
- Attacked images were saved through a stretch of their contrast, clean ones were not: see the control `stretch`.

`paper-sors` is that paper's set for CIFAR-10. Of CW it names the confidence (0) and the iterations (100) alone: the
first `const`, the number of searches and the step are pdtool's choice.

`paper-2018` names the epsilons, CW's 100 iterations and its 10 search steps ("the search step for line search in C&W");
the rest are the defaults of CleverHans, which it ran: BIM in 10 steps of 0.05, CW from 0.01 in steps of 0.005.
"""

__all__ = ["PRESETS"]

_COMMON = (
    "fgsm:epsilon=0.03",
    "fgsm:epsilon=0.0075",
    "jsma:theta=1,gamma=0.12",
    "cw:const=0.6,searches=1,steps=1000,step=0.01,confidence=0",
    "cw:const=0.6,searches=1,steps=1000,step=0.001,confidence=0",
    "deepfool:steps=50,overshoot=0.02",
    "one-pixel:pixels=3,iterations=100",
    "local-search:p=1,r=1.5,d=5,t=5,k=1,rounds=10,seeds=0.1",
)

PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("fgsm:epsilon=0.0075", "fgsm:epsilon=0.03", "deepfool", "pgd"),
    "strong": (
        "pgd:epsilon=8/255,step=2/255,steps=50",
        "apgd-ce:epsilon=8/255,steps=100",
        "apgd-dlr:epsilon=8/255,steps=100",
        "pgd:epsilon=8/255,step=2/255,steps=50,targeted=1",
        "pgd-margin:epsilon=8/255,step=2/255,steps=50",
        "cw:const=1,searches=4,steps=200,step=0.01,confidence=20",
        "square:epsilon=8/255,queries=5000",
    ),
    # Wang et al., IEEE Access 2021, section IV-C, Tables 4 to 8
    "paper-access2021": (
        *_COMMON,
        "ila:epsilon=0.005,step=1,steps=10,base_epsilon=0.015,base_step=0.0025,base_steps=10",
        "fia:epsilon=0.03,step=1/255,steps=10,momentum=1,masks=30,drop=0.3",
        "fia:epsilon=0.0075,step=1/255,steps=10,momentum=1,masks=30,drop=0.3",
    ),
    # Chen et al., workshop at ICML 2021, section 4.3; beside these it counts clean images that are labelled wrongly
    "paper-icml2021": _COMMON,
    # Bian et al. 2021, section 4.1
    "paper-sors": (
        *(f"fgsm:epsilon={e}/255" for e in (1, 2, 4, 8)),
        *(f"pgd:epsilon={e}/255,step={e / 4:g}/255,steps=7" for e in (1, 2, 4, 8)),
        *(f"mim:epsilon={e}/255,step={e / 10:g}/255,steps=10,momentum=1" for e in (1, 2, 4, 8)),
        "cw:const=0.01,searches=5,steps=100,step=0.01,confidence=0",
    ),
    # Wang et al. 2018, Tables I and II
    "paper-2018": (
        *(f"fgsm:epsilon={e}" for e in (0.1, 0.15, 0.25)),
        *(f"fgsm:epsilon={e},targeted=1" for e in (0.1, 0.15, 0.25)),
        *(f"bim:epsilon={e},step=0.05,steps=10,targeted=1" for e in (0.1, 0.15, 0.25)),
        "cw:const=0.01,searches=10,steps=100,step=0.005,confidence=0",
    ),
}
