"""A service that restyles pictures, in Flask: calls without `await`, from many threads."""

from flask import Flask, request

from novita_async import Img2Img, NovitaError
from novita_async.sync import Client

app = Flask(__name__)
client = Client()


@app.post("/restyle")
def restyle():
    wish = Img2Img(
        model_name="sd_xl_base_1.0.safetensors", image=request.get_data(), prompt=request.args["prompt"]
    )
    return client.run(wish, timeout=120).to_dict()


@app.errorhandler(NovitaError)
def trouble(error: NovitaError):
    return {"error": type(error).__name__, "message": str(error), "task_id": error.task_id}, error.answer_with
