import torch

from ultrafuser.modeling import UltraFuserForCausalLM


def test_smoke(fused_model, tmp_path):
    m = fused_model
    prompts = m.prepare_prompts([[[0, 5, 6], [0, 7, 8, 9], [0, 10]], [[0, 5], [0, 7, 8, 9, 11, 12], [0, 10]]])
    out = m.generate(**prompts, max_new_tokens=6, do_sample=False)
    assert out.shape[0] == 2
    m.save_pretrained(tmp_path / "x")
    n, info = UltraFuserForCausalLM.from_pretrained(tmp_path / "x", output_loading_info=True)
    print(info)
    for (k, a), (_, b) in zip(m.state_dict().items(), n.state_dict().items(), strict=True):
        assert torch.equal(a, b), k
    assert torch.equal(n.generate(**prompts, max_new_tokens=6, do_sample=False), out)
    s = torch.randint(3, 290, (2, 3, 9))
    res = m(
        sequence_ids=s,
        sequence_mask=torch.ones_like(s),
        response_index=torch.tensor([[4, 5]] * 3).expand(2, 3, 2),
        labels=torch.tensor([[5, 6], [7, -100]]),
    )
    res.loss.backward()
    print(res.loss, res.gate_weights)
