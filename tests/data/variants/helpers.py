"""What the models of the other files call."""


def choose(x, cutoff):
    if x.mean() > cutoff:  # ! CG301
        return x
    return x * cutoff


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum().clamp(min=1)


def count_valid(mask):
    return mask.sum().item()  # ! CG101


def shape_of(x):
    return x.shape[0], x.shape[-1]


def threshold_all(mask):
    return (mask > 0).all()
