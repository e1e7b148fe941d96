"""What the hub holds of all that ``config/paper`` and the tests of benchmarks name, in miniature.

Models are tiny and random; data sets have a few dozen rows. Layouts of repositories, columns and their types, subsets,
splits, config classes, kinds of tokenizers, chat templates and gates are the real ones', so what reads the real ones
reads these. One function a data set (``data_sets``, ``benchmarks``), one line a model (``models``, ``encoders``), one
function an image set (``images``) adds another.
"""
