"""Pictures of what networks are, compute and learn; they need the extra ``plot``.

Each function draws into the axes that it is given, or into a new figure, and returns the axes for the caller's own
titles and changes. None is shown before ``matplotlib.pyplot.show()``. `docs/gallery` has them all.

Colours are those of Okabe and Ito, which colour-blind readers tell apart (Wong 2011, Nature Methods 8, 441). Classes
also differ in their markers, and curves in their dashes, for prints in grey.

>>> from fastnn import plots
>>> ax = plots.activation("relu", low=-2, high=2)
>>> ax.get_xlabel()
'pre-activation $z$'
"""

from fastnn.plots.curves import activation, gradient_norms, losses
from fastnn.plots.diagrams import network
from fastnn.plots.planes import decision_regions, gate, gates

__all__ = ["activation", "decision_regions", "gate", "gates", "gradient_norms", "losses", "network"]
