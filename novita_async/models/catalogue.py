"""Records of the model listing."""

from attrs import field

from novita_async._util.plain import Plain
from novita_async._util.values import frozen
from novita_async.errors import without_query


@frozen(kw_only=True)
class ModelRecord(Plain):
    """A checkpoint, LoRA, embedding, VAE or the like that requests can name.

    Args:
        id: The service's number.
        name: Display name or version.
        sd_name: File name.
        sd_name_in_api: Name for requests, where it differs from the file name.
        type: Kind of model; may lie outside `ModelType`.
        base_model: Such as `SD 1.5` or `SDXL 1.0`.
        base_model_type: Such as `Standard` or `Inpainting`.
        is_sdxl: Whether it belongs to SDXL. None: not told.
        is_nsfw: Whether it is marked as not safe for work. None: not told.
        available: Whether it can be used now. None: not told.
        hash_sha256: Beginning of the file's hash, in hex.
        source: Where it comes from: `civitai`, `training`, `uploading`.
        categories: The service's categories.
        tags: The service's tags.
        cover_url: A picture made with it.
        download_url: Where the file is, while the URL lives. Its query is a secret and is not shown in repr.
        download_url_ttl: Seconds that the download URL lives.
    """

    id: int | None = None
    """The service's number."""
    name: str = ""
    """Display name or version."""
    sd_name: str = ""
    """File name."""
    sd_name_in_api: str = ""
    """Name for requests, where it differs from the file name."""
    type: str = ""
    """Kind of model; may lie outside `ModelType`."""
    base_model: str = ""
    """Such as `SD 1.5` or `SDXL 1.0`."""
    base_model_type: str = ""
    """Such as `Standard` or `Inpainting`."""
    is_sdxl: bool | None = None
    """Whether it belongs to SDXL. None: not told."""
    is_nsfw: bool | None = None
    """Whether it is marked as not safe for work. None: not told."""
    available: bool | None = None
    """Whether it can be used now. None: not told."""
    hash_sha256: str = ""
    """Beginning of the file's hash, in hex."""
    source: str = ""
    """Where it comes from: `civitai`, `training`, `uploading`."""
    categories: tuple[str, ...] = ()
    """The service's categories."""
    tags: tuple[str, ...] = ()
    """The service's tags."""
    cover_url: str = ""
    """A picture made with it."""
    download_url: str = field(default="", repr=without_query)
    """Where the file is, while the URL lives. Its query is a secret and is not shown in repr."""
    download_url_ttl: int | None = None
    """Seconds that the download URL lives."""

    @property
    def api_name(self) -> str:
        """The name to write into requests."""
        return self.sd_name_in_api or self.sd_name
