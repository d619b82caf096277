"""Sets of attacks by name: those of the papers that this screener comes from, a quick one and a strong one."""

__all__ = ["PRESETS"]

PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("fgsm:epsilon=0.0075", "fgsm:epsilon=0.03", "deepfool", "pgd"),
    "strong": (
        "pgd:epsilon=8/255,step=2/255,steps=50",
        "pgd:epsilon=8/255,step=2/255,steps=50,targeted=1",
        "pgd-margin:epsilon=8/255,step=2/255,steps=50",
        "cw:const=1,searches=4,steps=200,step=0.01,confidence=20",
    ),
}
