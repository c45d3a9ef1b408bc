"""Names that the API knows, for completion. Each of these lists can grow on the server: unknown strings pass.

Spelling and lists: the API's Image-to-Image page.
"""

from enum import StrEnum


class Sampler(StrEnum):
    """Denoising algorithms."""

    EULER_A = "Euler a"
    EULER = "Euler"
    LMS = "LMS"
    HEUN = "Heun"
    DPM2 = "DPM2"
    DPM2_A = "DPM2 a"
    DPM_PP_2S_A = "DPM++ 2S a"
    DPM_PP_2M = "DPM++ 2M"
    DPM_PP_SDE = "DPM++ SDE"
    DPM_FAST = "DPM fast"
    DPM_ADAPTIVE = "DPM adaptive"
    LMS_KARRAS = "LMS Karras"
    DPM2_KARRAS = "DPM2 Karras"
    DPM2_A_KARRAS = "DPM2 a Karras"
    DPM_PP_2S_A_KARRAS = "DPM++ 2S a Karras"
    DPM_PP_2M_KARRAS = "DPM++ 2M Karras"
    DPM_PP_SDE_KARRAS = "DPM++ SDE Karras"
    DDIM = "DDIM"
    PLMS = "PLMS"
    UNIPC = "UniPC"


class Preprocessor(StrEnum):
    """Treatment of a ControlNet unit's picture before it guides."""

    SCRIBBLE_HED = "scribble_hed"
    SOFTEDGE_HED = "softedge_hed"
    SCRIBBLE_HEDSAFE = "scribble_hedsafe"
    SOFTEDGE_HEDSAFE = "softedge_hedsafe"
    DEPTH_MIDAS = "depth_midas"
    MLSD = "mlsd"
    OPENPOSE = "openpose"
    OPENPOSE_FACE = "openpose_face"
    OPENPOSE_FACEONLY = "openpose_faceonly"
    OPENPOSE_FULL = "openpose_full"
    OPENPOSE_HAND = "openpose_hand"
    DWPOSE = "dwpose"
    SCRIBBLE_PIDINET = "scribble_pidinet"
    SOFTEDGE_PIDINET = "softedge_pidinet"
    SCRIBBLE_PIDSAFE = "scribble_pidsafe"
    SOFTEDGE_PIDSAFE = "softedge_pidsafe"
    NORMAL_BAE = "normal_bae"
    LINEART_COARSE = "lineart_coarse"
    LINEART_REALISTIC = "lineart_realistic"
    LINEART_ANIME = "lineart_anime"
    LINEART = "lineart"
    DEPTH_ZOE = "depth_zoe"
    SHUFFLE = "shuffle"
    MEDIAPIPE_FACE = "mediapipe_face"
    CANNY = "canny"
    DEPTH = "depth"
    DEPTH_LERES = "depth_leres"
    DEPTH_LERES_PP = "depth_leres++"


class ControlNetModel(StrEnum):
    """ControlNets. `SD15_*` go with SD 1.5 checkpoints, `SDXL_*` with SDXL ones."""

    SD15_IP2P = "control_v11e_sd15_ip2p"
    SD15_SHUFFLE = "control_v11e_sd15_shuffle"
    SD15_TILE = "control_v11f1e_sd15_tile"
    SD15_DEPTH = "control_v11f1p_sd15_depth"
    SD15_CANNY = "control_v11p_sd15_canny"
    SD15_INPAINT = "control_v11p_sd15_inpaint"
    SD15_LINEART = "control_v11p_sd15_lineart"
    SD15_MLSD = "control_v11p_sd15_mlsd"
    SD15_NORMALBAE = "control_v11p_sd15_normalbae"
    SD15_OPENPOSE = "control_v11p_sd15_openpose"
    SD15_SCRIBBLE = "control_v11p_sd15_scribble"
    SD15_SEG = "control_v11p_sd15_seg"
    SD15_SOFTEDGE = "control_v11p_sd15_softedge"
    SD15_LINEART_ANIME = "control_v11p_sd15s2_lineart_anime"
    SD15_BRIGHTNESS = "control_v1p_sd15_brightness"
    SD15_QRCODE_MONSTER = "control_v1p_sd15_qrcode_monster"
    SD15_QRCODE_MONSTER_V2 = "control_v1p_sd15_qrcode_monster_v2"
    SDXL_CANNY = "controlnet-canny-sdxl-1.0"
    SDXL_DEPTH = "controlnet-depth-sdxl-1.0"
    SDXL_OPENPOSE = "controlnet-openpose-sdxl-1.0"
    SDXL_SOFTEDGE = "controlnet-softedge-sdxl-1.0"


class IPAdapterModel(StrEnum):
    """IP-Adapters, one for each base model."""

    SD15 = "ip-adapter_sd15.bin"
    SDXL = "ip-adapter_sdxl.bin"


class ImageType(StrEnum):
    """Formats that results come in."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"


class Upscaler(StrEnum):
    """Upscaler of the picture in a hires fix."""

    REALESRGAN_ANIME = "RealESRGAN_x4plus_anime_6B"
    REALESRNET = "RealESRNet_x4plus"
    LATENT = "Latent"


class TaskStatus(StrEnum):
    """Statuses of a task. An unknown one means that it is still running."""

    QUEUED = "TASK_STATUS_QUEUED"
    PROCESSING = "TASK_STATUS_PROCESSING"
    SUCCEED = "TASK_STATUS_SUCCEED"
    FAILED = "TASK_STATUS_FAILED"
    UNKNOWN = "TASK_STATUS_UNKNOWN"


class ModelType(StrEnum):
    """Kinds of records in the model listing."""

    CHECKPOINT = "checkpoint"
    LORA = "lora"
    VAE = "vae"
    CONTROLNET = "controlnet"
    UPSCALER = "upscaler"
    TEXTUAL_INVERSION = "textualinversion"
