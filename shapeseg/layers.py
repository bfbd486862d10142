"""The few Keras layers of our own. Each takes images of any size; none needs a Lambda, so that models load in safe mode."""

from shapeseg.backend import keras, ops


class Layer(keras.layers.Layer):
    """A layer with one number, which is saved with it under the name that the class's `argument` gives."""

    def __init__(self, value=None, **kwargs):
        value = kwargs.pop(self.argument, value)
        super().__init__(**kwargs)
        setattr(self, self.argument, value)
    def get_config(self):
        return {**super().get_config(), self.argument: getattr(self, self.argument)}


@keras.saving.register_keras_serializable("shapeseg")
class LocalContrast(Layer):
    """Each pixel minus its window's mean, over the window's standard deviation: a faint figure looks like a strong one."""
    argument = "window"
    FLOOR = 1 / 256  # the variance of levels in [-1, 1] below which all is noise: a standard deviation of 8 grey levels
    def call(self, x):
        x = x - self.mean(x)
        return x * ops.rsqrt(self.mean(ops.square(x)) + self.FLOOR)
    def mean(self, x):
        for _ in range(2):  # down the columns, the whole row at once; then the same with the image turned
            n, height, width, channels = ops.shape(x)
            x = ops.reshape(x, (n, height, 1, width * channels))
            x = ops.average_pool(x, (self.window, 1), 1, "same", "channels_last")  # beyond the border nothing is counted
            x = ops.transpose(ops.reshape(x, (n, height, width, channels)), (0, 2, 1, 3))
        return x


@keras.saving.register_keras_serializable("shapeseg")
class PadToMultiple(Layer):
    """Repeat the last row and column until both sizes are multiples of a number."""
    argument = "multiple"
    def call(self, x):
        def pad(x, axis):
            size = ops.shape(x)[axis]
            return ops.take(x, ops.minimum(ops.arange(-(-size // self.multiple) * self.multiple), size - 1), axis)

        height, width = ops.shape(x)[1:3]
        fits = (height % self.multiple == 0) & (width % self.multiple == 0)
        if isinstance(fits, bool):  # with JAX, where a size is a number
            return x if fits else pad(pad(x, 1), 2)
        return ops.cond(fits, lambda: x, lambda: pad(pad(x, 1), 2))


@keras.saving.register_keras_serializable("shapeseg")
class SpaceToDepth(Layer):
    """Fold patch × patch pixels into channels: (H, W, C) to (H / patch, W / patch, C · patch²); DepthToSpace unfolds them again."""
    argument = "patch"
    def call(self, x):
        p, channels = self.patch, x.shape[-1]  # as tf.nn.space_to_depth, in a fifth of the time
        n, height, width, _ = ops.shape(x)
        rows = ops.reshape(x, (n * height // p, p, width // p, p * channels))
        return ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (n, height // p, width // p, p * p * channels))


@keras.saving.register_keras_serializable("shapeseg")
class DepthToSpace(SpaceToDepth):
    def call(self, x):
        p, channels = self.patch, x.shape[-1] // self.patch**2
        n, height, width, _ = ops.shape(x)
        rows = ops.reshape(x, (n * height, width, p, p * channels))
        return ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (n, height * p, width * p, channels))


@keras.saving.register_keras_serializable("shapeseg")
class CropLike(keras.layers.Layer):
    def call(self, inputs):
        x, like = inputs
        return x[:, :ops.shape(like)[1], :ops.shape(like)[2]]
