{{/* The container of a worker: (dict "root" $ "values" $values "name" "vision" "module" "vision_worker" "listen" port
     "devices" count "environment" extra "serves" whether it has probes). */}}
{{- define "glm4v.workerContainer" -}}
{{- $values := .values -}}
- name: {{ .name }}
  image: {{ include "glm4v.image" (list .root $values.image) | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [python, -m, {{ .module }}]
  env:
    - name: GLM4V_LISTEN
      value: 127.0.0.1:{{ .listen }}
    - name: GLM4V_DEVICE
      value: {{ $values.device.type | quote }}
    {{- if and (dig "requests" "cpu" "" $values.resources) (not (hasKey $values.settings "GLM4V_THREADS")) }}
    - name: GLM4V_THREADS # without a CPU limit a process would take all cores of the node
      valueFrom: {resourceFieldRef: {resource: requests.cpu}}
    {{- end }}
    {{- with .environment }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "glm4v.environment" (list .root $values) | nindent 4 }}
  {{- if .serves }}
  ports:
    - {name: health, containerPort: 8340}
    - {name: metrics, containerPort: 8350}
  {{- include "glm4v.probes" $values | nindent 2 }}
  {{- end }}
  {{- include "glm4v.containerSecurity" .root | nindent 2 }}
  resources:
    {{- $resources := deepCopy $values.resources }}
    {{- with $values.device.resource }}
    {{- $_ := set $resources "limits" (merge (dict . $.devices) (default dict $resources.limits)) }}
    {{- $_ := set $resources "requests" (merge (dict . $.devices) (default dict $resources.requests)) }}
    {{- end }}
    {{- toYaml $resources | nindent 4 }}
  volumeMounts:
    {{- include "glm4v.volumeMounts" (list .root $values) | nindent 4 }}
{{- end -}}

{{- define "glm4v.workerSpec" -}}
{{- include "glm4v.podSpec" (list .root .values) }}
terminationGracePeriodSeconds: {{ include "glm4v.grace" .values }}
{{- include "glm4v.verify" (list .root .values.image) }}
containers:
  {{- include "glm4v.workerContainer" . | nindent 2 }}
volumes:
  {{- include "glm4v.volumes" (list .root .values) | nindent 2 }}
{{- end -}}
