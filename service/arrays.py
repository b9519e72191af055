"""The one array of numbers that rooms hand on: pictures, maps, logits and scores; shapes stand where it is used."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
