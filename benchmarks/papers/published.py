"""The numbers of the two papers' tables, as printed, and what their text states of their figures.

`ACCESS`: R. Wang et al., "You Can't Fool All the Models: Detect Adversarial Samples via Pruning Models", IEEE Access
2021 (Tables 1 to 8, Figures 3 to 8). `ICML`: Z. Chen et al., "Adversarial Sample Detection via Channel Pruning", ICML
2021 workshop "A Blessing in Disguise" (Tables 1 to 4, Figures 2 and 3). Data: `cifar10` (ResNet-18), `svhn` (VGG-16).
Methods have pdtool's names: the papers' RC is `random-channel`, L_1N `l1-norm`, LTH `lottery-ticket`, SE `subnetwork`,
MMT (with NAI) `mutation-nai`. Rates and accuracies in percent unless said otherwise, FLOPs in millions (they are
multiply-accumulates), sizes in MB.
"""

METHODS = {
    "mutation-nai": "MMT",
    "random-channel": "RC",
    "l1-norm": "L1N",
    "lottery-ticket": "LTH",
    "subnetwork": "SE",
}
# Attack of pdtool -> the papers' abbreviation, in their order
ACCESS_ATTACKS = {
    "fgsm": "FGSM",
    "jsma": "JSMA",
    "cw": "CW",
    "deepfool": "DF",
    "ila": "ILA",
    "local-search": "LS",
}
ICML_ATTACKS = {
    "fgsm": "FGSM",
    "jsma": "JSMA",
    "cw": "CW",
    "deepfool": "DF",
    "one-pixel": "OP",
    "local-search": "LS",
    "wrong": "WL",  # clean images that the original labels wrongly
}

# Table 1: rate of channels and of weights as shares, FLOPs
ACCESS_1 = {
    "cifar10": {
        "random-channel": (0.5, 0.5047, 275.2),
        "l1-norm": (0.5, 0.5189, 274.9),
        "lottery-ticket": (0.0, 0.5, 278.3),
        "subnetwork": (0.0, 0.5, 278.3),
        "mutation-nai": (0.0, 0.0, 556.65),
    },
    "svhn": {
        "random-channel": (0.5, 0.7614, 82.3),
        "l1-norm": (0.5, 0.7506, 78.6),
        "lottery-ticket": (0.0, 0.5, 157.0),
        "subnetwork": (0.0, 0.5, 157.0),
        "mutation-nai": (0.0, 0.0, 314.03),
    },
}

# Table 2: mean accuracy of the models
ACCESS_2 = {
    "cifar10": {
        "original": 93.03,
        "lottery-ticket": 92.20,
        "subnetwork": 92.15,
        "random-channel": 89.56,
        "l1-norm": 91.65,
    },
    "svhn": {
        "original": 95.63,
        "lottery-ticket": 95.10,
        "subnetwork": 94.98,
        "random-channel": 94.34,
        "l1-norm": 94.62,
    },
}

# Table 3: size of a model in MB; structured: RC and L_1N, unstructured: LTH and SE
ACCESS_3 = {
    "cifar10": {"original": 85.35, "mutated": 85.35, "unstructured": 85.35, "structured": 43.84},
    "svhn": {"original": 112.45, "mutated": 112.45, "unstructured": 112.45, "structured": 27.59},
}

# Table 4: AUROC, the methods in the order of ACCESS_4_METHODS
ACCESS_4_METHODS = ("mutation-nai", "random-channel", "l1-norm", "lottery-ticket", "subnetwork")
ACCESS_4 = {
    "cifar10": {
        "fgsm": (87.96, 98.67, 98.50, 98.56, 98.34),
        "jsma": (97.07, 99.81, 99.79, 99.71, 99.66),
        "cw": (88.05, 98.07, 98.15, 97.63, 97.88),
        "deepfool": (97.04, 99.79, 99.80, 99.73, 99.68),
        "ila": (87.45, 96.98, 96.36, 96.61, 96.55),
        "local-search": (82.78, 96.47, 96.11, 94.51, 94.17),
    },
    "svhn": {
        "fgsm": (91.92, 98.00, 96.47, 96.80, 96.64),
        "jsma": (96.43, 99.53, 99.29, 99.55, 99.58),
        "cw": (86.73, 98.65, 96.94, 97.91, 98.34),
        "deepfool": (93.90, 99.19, 98.34, 98.97, 99.00),
        "ila": (90.3, 98.89, 97.44, 98.62, 98.53),
        "local-search": (90.38, 98.45, 98.05, 96.72, 96.46),
    },
}
# What the text says of it: MMT's mean, and the four pruning methods' mean lead over MMT (conclusion)
ACCESS_4_MMT_MEAN = {"cifar10": 90.06, "svhn": 90.65}
ACCESS_4_LEAD = {"cifar10": 7.92, "svhn": 7.53}

# Figures 3 and 4 (detection accuracy on attacked images), 5 and 6 (models used): means over the attacks, from the text
ACCESS_DETECTED = {
    "cifar10": {"mutation-nai": 64.15, "random-channel": 95.00, "pruned": 92.80},
    "svhn": {"mutation-nai": 73.70, "random-channel": 94.58, "pruned": 92.43},
}
ACCESS_MODELS_USED = {
    "cifar10": {"mutation-nai": 62.65, "pruned": 28.95},
    "svhn": {"mutation-nai": 51.78, "pruned": 30.97},
}

# Table 5: detection accuracy on clean images
ACCESS_5 = {
    "cifar10": {
        "mutation-nai": 81.00,
        "lottery-ticket": 87.70,
        "subnetwork": 87.40,
        "random-channel": 85.90,
        "l1-norm": 86.40,
    },
    "svhn": {
        "mutation-nai": 92.30,
        "lottery-ticket": 95.70,
        "subnetwork": 95.40,
        "random-channel": 95.10,
        "l1-norm": 95.50,
    },
}

# Table 6: detection accuracy on FIA, the papers' adaptive attack
ACCESS_6 = {
    "cifar10": {
        "mutation-nai": 49.4,
        "lottery-ticket": 91.4,
        "subnetwork": 90.7,
        "random-channel": 100.0,
        "l1-norm": 98.4,
    },
    "svhn": {
        "mutation-nai": 70.6,
        "lottery-ticket": 92.7,
        "subnetwork": 92.0,
        "random-channel": 94.3,
        "l1-norm": 90.3,
    },
}

# Table 7: attacked images labelled rightly, mean over the attacks; TI: transformed images
ACCESS_7 = {
    "cifar10": {
        "TI": 68.30,
        "pgd-at": 61.90,
        "trades": 60.20,
        "fast-at": 49.8,
        "mutation-nai": 22.51,
        "subnetwork": 68.60,
    },
    "svhn": {
        "TI": 67.62,
        "pgd-at": 60.70,
        "trades": 54.80,
        "fast-at": 66.50,
        "mutation-nai": 24.26,
        "subnetwork": 72.03,
    },
}

# Table 8: attacked images labelled rightly under FIA
ACCESS_8 = {
    "cifar10": {
        "mutation-nai": 2.4,
        "lottery-ticket": 5.1,
        "subnetwork": 6.3,
        "random-channel": 6.2,
        "l1-norm": 6.3,
    },
    "svhn": {
        "mutation-nai": 1.5,
        "lottery-ticket": 2.4,
        "subnetwork": 2.6,
        "random-channel": 2.5,
        "l1-norm": 2.1,
    },
}

# Workshop, Table 1: channels of a group -> rate of channels removed, percent
ICML_1 = {64: 50, 128: 60, 256: 70, 512: 80}
# Tables 2 and 3: size in MB and FLOPs in millions of the original, a mutated and a pruned model
ICML_2 = {"cifar10": (85.35, 85.35, 20.88), "svhn": (112.45, 112.45, 5.47)}
ICML_3 = {"cifar10": (140.60, 140.60, 51.82), "svhn": (314.03, 314.03, 32.42)}
# Table 4: AUROC in percent (the paper prints shares) of MMT (NAI) and of random channels
ICML_4 = {
    "cifar10": {
        "fgsm": (92.14, 98.49),
        "jsma": (97.88, 99.21),
        "cw": (91.70, 97.61),
        "deepfool": (97.28, 99.33),
        "one-pixel": (99.77, 98.75),
        "local-search": (93.99, 95.69),
        "wrong": (92.38, 93.41),
    },
    "svhn": {
        "fgsm": (87.61, 97.60),
        "jsma": (96.25, 98.93),
        "cw": (89.22, 99.23),
        "deepfool": (96.59, 99.73),
        "one-pixel": (94.97, 99.04),
        "local-search": (93.30, 98.62),
        "wrong": (89.02, 93.94),
    },
}
ICML_4_MEANS = {"cifar10": (95.02, 97.50), "svhn": (92.42, 98.16)}  # as the text states them
# Figures 2 and 3, means over the attacks, from the text: detection accuracy and models used of MMT and of theirs
ICML_DETECTED = {"cifar10": (87.47, 92.76), "svhn": (63.00, 93.92)}
ICML_MODELS_USED = {"cifar10": (42.81, 29.24), "svhn": (64.66, 30.68)}

# Where the papers contradict themselves or their numbers cannot mean what they say
REMARKS = {
    "sizes": "The papers' 85.35 and 112.45 MB are 8 bytes a parameter, twice a float32 model: checkpoints with the "
    "optimiser's momentum. Ours are the bytes of the float32 weights file.",
    "flops": "FLOPs are multiply-accumulates (MACs). ResNet-18 has 556.65 M in the Access paper and 140.60 M in the "
    "workshop paper, for the same 32x32 images.",
    "zeros": "For LTH and SE the papers count multiplications by zero as free, and so does the figure before the "
    "brackets. A dense engine does them: in brackets.",
    "means": "For SVHN the text gives MMT a mean of 90.65 and the pruned pools a lead of 7.53; the table's own means "
    "are 91.61 and 6.57. For CIFAR-10 text and table agree.",
    "mmt": "MMT's detection accuracy on CIFAR-10 and SVHN is 87.47 and 63.00 % in the workshop paper's abstract and "
    "results, 74.74 and 44.79 % in its conclusion, and 64.15 and 73.70 % in the Access paper.",
    "ratios": 'The workshop paper\'s "FLOPs and size are only 24.46 % and 4.86 %" are two ratios of sizes; the FLOPs '
    "of its Table 3 are 36.9 and 10.3 %.",
    "groups": 'The workshop paper calls its rates "overall, 65 %" for ResNet-18 and 70 % for VGG-16: means over '
    "layers. Of all channels it is 73 and 76 %.",
    "fia": "MMT is 49.4 and 70.6 % in Table 6 and 48.25 and 69.9 % in the text. In the program that the authors "
    "published for a sibling method, FIA bounds the image itself, not its change, to +-0.03: what is left is hardly a "
    "picture, which fits the 2 to 6 % of Table 8, below chance. Ours bounds the change.",
    "clean": "The papers' test names an error of 5 % for clean images; by Table 5 it is 14.1 % (RC, CIFAR-10).",
}
