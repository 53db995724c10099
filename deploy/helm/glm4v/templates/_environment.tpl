{{/* Variables of every process: (list $ component). */}}
{{- define "glm4v.environment" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
- name: GLM4V_MODEL
  value: {{ $root.Values.model.path | quote }}
- name: GLM4V_NAMESPACE
  value: {{ $root.Values.keyNamespace | quote }}
- name: GLM4V_REDIS_URL
  value: {{ include "glm4v.redisUrl" $root | quote }}
{{- with include "glm4v.embeddingsUrl" $root }}
- name: GLM4V_EMBEDDINGS_REDIS_URL
  value: {{ . | quote }}
{{- end }}
{{- with $root.Values.redis.username }}
- name: GLM4V_REDIS_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- with $root.Values.redis.existingSecret }}
- name: GLM4V_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: {{ $root.Values.redis.passwordKey | quote }}}
{{- end }}
- name: GLM4V_HEALTH_LISTEN
  value: 0.0.0.0:8340
- name: GLM4V_METRICS_LISTEN
  value: 0.0.0.0:8350
- name: GLM4V_DRAIN_TIMEOUT_S
  value: {{ include "glm4v.scalar" $values.drainTimeoutSeconds | quote }}
- name: TMPDIR
  value: /tmp
{{- range $name, $value := $values.settings }}
- name: {{ $name }}
  value: {{ include "glm4v.scalar" $value | quote }}
{{- end }}
{{- with $values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "glm4v.redisUrl" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "bundled" -}}
redis://{{ include "glm4v.name" (list . "redis") }}:6379/0
{{- else if eq $external.kind "cluster" -}}
{{ ternary "rediss" "redis" $external.tls }}+cluster://{{ first $external.addresses }}{{ include "glm4v.redisCa" . }}
{{- else if eq $external.kind "sentinel" -}}
redis+sentinel://{{ join "," $external.addresses }}/{{ $external.sentinelService }}/{{ int $external.database }}
{{- else -}}
{{ ternary "rediss" "redis" $external.tls }}://{{ first $external.addresses }}/{{ int $external.database }}{{ include "glm4v.redisCa" . }}
{{- end -}}
{{- end -}}

{{- define "glm4v.embeddingsUrl" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "bundled" -}}
{{- if .Values.redis.bundled.embeddings.separate -}}
redis://{{ include "glm4v.name" (list . "embeddings") }}:6379/0
{{- end -}}
{{- else if $external.embeddingsAddress -}}
{{ ternary "rediss" "redis" $external.tls }}://{{ $external.embeddingsAddress }}/0{{ include "glm4v.redisCa" . }}
{{- end -}}
{{- end -}}

{{- define "glm4v.redisCa" -}}
{{- if .Values.redis.external.caSecret }}?ssl_ca_certs=/run/glm4v/redis-ca/ca.crt{{ end -}}
{{- end -}}
