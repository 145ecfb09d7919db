# Hugging Face's client against the hub of TestRealClient: client.py URL TOKEN FOLDER
import os, sys, tempfile

url, token, folder = sys.argv[1:]
os.environ["HF_ENDPOINT"] = url
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

api = HfApi(endpoint=url, token=token)
print(api.create_repo("org/theirs", exist_ok=True))
print(api.upload_folder(repo_id="org/theirs", folder_path=folder, commit_message="theirs").oid)
assert api.create_repo("org/theirs", exist_ok=True).repo_id == "org/theirs"
assert api.create_repo("org/secret", private=True).repo_id == "org/secret"
assert api.model_info("org/secret").private and not api.model_info("org/theirs").private
info = api.create_commit("org/theirs", operations=[], commit_message="nothing", create_pr=False)
api.create_branch("org/theirs", branch="dev", exist_ok=True)
pr = api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="org/theirs", create_pr=True)
print(pr.pr_url)
# what was pushed by the program of this repository
with tempfile.TemporaryDirectory() as cache:
    local = snapshot_download("org/ours", endpoint=url, token=token, cache_dir=cache)
    for name in ("config.json", "model.safetensors", "sub/vocab.txt"):
        a, b = open(os.path.join(local, name), "rb").read(), open(os.path.join(folder, name), "rb").read()
        assert a == b, name
    before = api.model_info("org/ours").sha
    api.upload_folder(repo_id="org/ours", folder_path=folder, commit_message="the same")
    assert api.model_info("org/ours").sha == before, "their client thinks that what was pushed is another content"
print("ok")
