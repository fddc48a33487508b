"""The files ``adapters/*.py`` of your own config folder: ``adapters/points.py`` there is ``vsattn.adapters.points``.

The folder is named by ``--config-dir`` or VSATTN_CONFIG_DIR; see :mod:`vsattn.extensions`. This package has no names of
its own, which a file of yours could take.
"""

from vsattn.extensions import adapter_folders as _adapter_folders

__path__ = _adapter_folders()
