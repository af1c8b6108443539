"""How far the probabilities of classes can be believed, and how to mend them."""

from deltatune.calibration.maps import Calibration, contextual, temperature
from deltatune.calibration.plot import plot_reliability
from deltatune.calibration.reliability import Reliability, reliability

__all__ = ["Calibration", "Reliability", "contextual", "plot_reliability", "reliability", "temperature"]
