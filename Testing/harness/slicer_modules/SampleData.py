"""Stand-in for the SampleData module: keeps what is registered in slicer.modules.sampleDataSources."""

from __future__ import annotations

from typing import Any

import slicer


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        categories = slicer.modules.__dict__.setdefault("sampleDataSourceCategories", {})
        categories.setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: dict[str, Any] | None = None,
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        source = {key: value for key, value in locals().items() if value is not None}
        slicer.modules.__dict__.setdefault("sampleDataSources", {}).setdefault(category, []).append(source)
