"""Stand-in for slicer.i18n: an application without translations returns every text as it is."""


def tr(text: str) -> str:
    return text


def translate(context: str, text: str) -> str:
    return text
